"""Error feedback: layer by layer, refit o_proj and down_proj so that the compressed residual stream lands on the dense one.

One-shot solutions aim each layer at the dense layer on *dense* inputs; what earlier layers lost is never made good. Here two
streams run side by side over the fit windows, the dense one (h, with attention output a and layer output h⁺) and the compressed
one (h̃). In each layer

    W_o    <- argmin  ‖ z̃ W − (h + a − h̃) ‖²      + λ_o ‖W − W_o‖²         z̃: input of o_proj in the compressed stream
    W_down <- argmin  ‖ x̃ W − (h⁺ − h̃ − z̃ W_o) ‖² + λ_d ‖W − W_down‖²      x̃: input of down_proj, after the new W_o

with an intercept where there is a bias. Both are ridge problems around the one-shot weights, which are the limit λ → ∞; so the
training error never rises. λ is a share of each input's own second moment, chosen from a fixed list by two-fold
cross-validation over alternate batches of windows; keeping the one-shot weights is one of the choices. Shapes do not change.

Feedback earns its time or stops: after ``PATIENCE`` layers in a row whose held-out errors fell by less than ``LEAST_GAIN`` the
remaining layers keep their one-shot solutions, and no stream runs on. That gain is small because layers' gains compound.

Where a norm stands between a projection and the residual stream (Gemma 2 and 3, OPT with norms last), the projection's own
dense output is the target: what earlier layers lost cannot be added through the norm linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from solvers.a3.ridge import Refit, Ridge
from solvers.model.inside import attended, run_layer
from solvers.model.surgery import OpenModel
from solvers.weights import LayerWeights

PATIENCE = 4
LEAST_GAIN = 0.002

_BATCH_WINDOWS = 8
_BATCH_TOKENS = 2048
"""The limit of a batch of long windows, which has one at least."""
_Targets = tuple[list[torch.Tensor], list[torch.Tensor]]
"""The targets of the compressed stream behind attention and behind the MLP, of every batch; where a norm stands between, the
targets of the projections themselves.
"""


@dataclass(frozen=True)
class LayerRecord:
    """How the projections of one layer were refitted; None: nothing before or in them was cut, or feedback had stopped."""

    layer: int
    o_proj: Refit | None
    down_proj: Refit | None

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> LayerRecord:
        """The record that ``document`` wrote."""
        parts = (document[name] and Refit(**document[name]) for name in ("o_proj", "down_proj"))
        return cls(document["layer"], *parts)

    def document(self) -> dict[str, Any]:
        """The record as JSON."""
        return {
            "layer": self.layer,
            **{
                name: part and vars(part)
                for name, part in (("o_proj", self.o_proj), ("down_proj", self.down_proj))
            },
        }


def _gained(record: LayerRecord) -> bool:
    parts = (part for part in (record.o_proj, record.down_proj) if part is not None)
    return any(part.error_ratio < 1 - LEAST_GAIN for part in parts)


def _idle(records: Sequence[LayerRecord]) -> int:
    """How many layers in a row, of those that were refitted, gained nothing at the end of ``records``."""
    idle = 0
    for record in records:
        if record.o_proj is not None:
            idle = 0 if _gained(record) else idle + 1
    return idle


class _Streams:
    """Hidden states of all batches before one layer after the other: of the dense model and of the compressed one."""

    def __init__(self, opened: OpenModel, windows: torch.Tensor, on_pass: Callable[[], None]) -> None:
        # Both folds need some.
        size = max(1, min(_BATCH_WINDOWS, _BATCH_TOKENS // windows.shape[1], len(windows) // 2))
        self._opened, self._on_pass = opened, on_pass
        self._dense, self._calls = opened.starts(windows.split(size))
        self._compressed = list(self._dense)
        self._drifted = False

    def past(self, index: int, computing: LayerWeights | None) -> None:
        """Go on behind a layer that is finished.

        Args:
            computing: what the compressed stream runs on; None: nothing before or in the layer is cut.
        """
        self._opened.reset(index)
        self._advance(index, self._dense)
        if computing is None:
            self._compressed = list(self._dense)
            return
        self._opened.put(index, computing)
        self._advance(index, self._compressed)
        self._drifted = True
        self._opened.reset(index)

    def refitted(
        self, index: int, weights: LayerWeights, held: Callable[[int, LayerWeights], LayerWeights]
    ) -> tuple[LayerWeights, LayerRecord]:
        """The one-shot ``weights`` of the next layer refitted, if anything is to be made good, and go on behind it."""
        opened, computing = self._opened, held(index, weights)
        cut = _is_cut(weights, opened.source[index]) or computing is not weights
        if not self._drifted and not cut:
            self.past(index, None)
            return weights, LayerRecord(index, None, None)
        opened.reset(index)
        calls = [call[index] for call in self._calls]
        targets: _Targets = ([], [])
        direct = opened.family.residual_is_direct(opened.config)
        for batch, call in enumerate(calls):
            activations = run_layer(opened, index, self._dense[batch], call)
            self._on_pass()
            # Of a whole text's activations as few as can be are held at once: what the layer got is gone here.
            self._dense[batch] = activations["out"]
            for kind, target in zip(targets, _targets(activations, direct=direct), strict=True):
                kind.append(target)
            del activations
        opened.put(index, computing)
        self._drifted = True
        return self._refit(index, weights, calls, targets, held)

    def _refit(
        self,
        index: int,
        weights: LayerWeights,
        calls: Sequence[dict[str, Any]],
        targets: _Targets,
        held: Callable[[int, LayerWeights], LayerWeights],
    ) -> tuple[LayerWeights, LayerRecord]:
        """``weights``, which are in place, with o_proj, then down_proj, refitted; the stream goes on behind the layer.

        Attention comes before both, so it runs once: its z are kept, in the room of the first targets.
        """
        opened, hiddens = self._opened, self._compressed
        direct = opened.family.residual_is_direct(opened.config)
        behind_attention, behind_mlp = targets
        ridge = Ridge(weights.o_HrD.flatten(0, 1), weights.o_bias_D)
        for batch, (hidden, call) in enumerate(zip(hiddens, calls, strict=True)):
            z, target = run_layer(opened, index, hidden, call, stop="z")["z"], behind_attention[batch]
            ridge.add(z, target - hidden if direct else target, batch % 2)
            behind_attention[batch] = z
            self._on_pass()
        inner = behind_attention
        flat, bias, o_record = ridge.fit()
        weights, down_record = replace(weights, o_HrD=flat.view(weights.o_HrD.shape), o_bias_D=bias), None
        opened.put(index, held(index, weights))
        if weights.mlp_rank:  # experts are left alone
            ridge = Ridge(weights.down_mD, weights.down_bias_D)
            for batch, (hidden, call, target) in enumerate(zip(hiddens, calls, behind_mlp, strict=True)):
                with attended(opened, index, inner[batch]):
                    activations = run_layer(opened, index, hidden, call, stop="x")
                left = target - hidden - activations["attention"] if direct else target
                ridge.add(activations["x"], left, batch % 2)
                self._on_pass()
            down, bias, down_record = ridge.fit()
            weights = replace(weights, down_mD=down, down_bias_D=bias)
            opened.put(index, held(index, weights))
        behind_mlp.clear()
        for batch, all_calls in enumerate(self._calls):
            with attended(opened, index, inner.pop(0)):
                hiddens[batch] = opened.advance(hiddens[batch], all_calls, index, index + 1)
            self._on_pass()
        opened.reset(index)
        return weights, LayerRecord(index, o_record, down_record)

    def _advance(self, index: int, hidden: list[torch.Tensor]) -> None:
        self._opened.through(index, hidden, self._calls, self._on_pass)


@torch.no_grad()
def compress_with_feedback(
    opened: OpenModel,
    windows: torch.Tensor,
    one_shot: Callable[[int], LayerWeights],
    on_layer: Callable[[int, int], None] = lambda done, total: None,
    *,
    finished: Sequence[tuple[LayerWeights, LayerRecord]] = (),
    keep: Callable[[LayerWeights, LayerRecord], LayerWeights] = lambda weights, record: weights,
    held: Callable[[int, LayerWeights], LayerWeights] = lambda layer, weights: weights,
    on_pass: Callable[[], None] = lambda: None,
) -> tuple[list[LayerWeights], list[LayerRecord]]:
    """Compress every layer with error feedback.

    Args:
        opened: the dense model; its layers are dense again when this returns or raises.
        windows: (W, T) token ids of the fit shards.
        one_shot: layer -> its one-shot solution at the planned ranks, in float64.
        on_layer: called as (done, total) after each layer; what it raises passes through.
        on_pass: called after each batch of a layer's refits; what it raises passes through.
        finished: the first layers, where an earlier run ended behind them: their weights in the type that the model runs in or
            a wider one, and how they were damped. They are run through, not solved, and the result is that of one run.
        keep: what becomes of a finished layer's weights, which are float64 until then.
        held: what a layer computes with when it has these weights, where that differs: the compressed stream runs on it.

    Returns:
        the layers' weights as kept, and how each projection was damped.
    """
    total = len(opened.source)
    layers, records = [weights for weights, _ in finished], [record for _, record in finished]
    if finished:
        on_layer(len(finished), total)
    try:
        streams: _Streams | None = None
        if len(finished) < total and _idle(records) < PATIENCE:
            streams = _Streams(opened, windows, on_pass)
            for index, (weights, record) in enumerate(finished):
                streams.past(index, None if record.o_proj is None else held(index, weights))
        for index in range(len(finished), total):
            weights, record = one_shot(index), LayerRecord(index, None, None)
            if streams is not None:
                weights, record = streams.refitted(index, weights, held)
            layers.append(keep(weights, record))
            records.append(record)
            if _idle(records) == PATIENCE:
                streams = None
            on_layer(index + 1, total)
    finally:
        for index in range(total):
            opened.reset(index)
    return layers, records


def _targets(activations: dict[str, torch.Tensor], *, direct: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if direct:
        return activations["in"] + activations["attention"], activations["out"]
    return activations["attention"], activations["mlp"]


def _is_cut(weights: LayerWeights, source: LayerWeights) -> bool:
    sizes = [(w.qk_rank, w.ov_rank, w.mlp_rank, w.query_latent) for w in (weights, source)]
    return sizes[0] != sizes[1]
