"""The cost of a profile, stated before it is measured. No torch.

The unit is one window through one layer. A *forward-equivalent* is every window of the calibration set (those that moments are
taken over and the most that losses are measured on) through all layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

from allocator.plan.effort import Effort, gradient_ranks
from allocator.plan.identity import Identity
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import JOINT, LATENT, Latent
from allocator.profiling.needs import Cut, LayerNeeds

WORK = "windows"
"""The unit of progress: windows that run through one layer, or what takes as long."""

_LOGITS_LIMIT_BYTES = 256 << 20
_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class ProfileCost:
    """Per layer of the model, in forward-equivalents, from the least (no loss needs more windows) to the most (all do)."""

    cuts: int
    least: tuple[float, ...]
    most: tuple[float, ...]
    first_windows: int
    most_windows: int
    window_tokens: int
    gradient_windows: int = 0
    passes: float = 0.0
    """For a profile from gradients: forward-equivalents of the fit windows through the whole model, moments included."""
    moments_passes: float = 1

    def document(self) -> dict[str, Any]:
        """Numbers people ask for before they start."""
        if self.gradient_windows:
            return {
                "cuts": self.cuts,
                "measure_tokens": [self.first_windows * self.window_tokens],
                "gradient_tokens": self.gradient_windows * self.window_tokens,
                "forward_equivalents": [round(self.passes, 2)],
            }
        return {
            "cuts": self.cuts,
            "measure_tokens": [n * self.window_tokens for n in (self.first_windows, self.most_windows)],
            "forward_equivalents_per_layer": [
                round(sum(passes) / len(passes), 3) for passes in (self.least, self.most)
            ],
            "forward_equivalents": [round(sum(passes), 2) for passes in (self.least, self.most)],
        }

    def sentence(self) -> str:
        """The same for people."""
        if self.gradient_windows:
            return (
                f"gradients on {self.gradient_windows * self.window_tokens:,} tokens, {self.cuts} cuts measured end to end on"
                f" {self.first_windows * self.window_tokens:,}: about {self.passes:.1f} forward passes of the calibration"
                f" tokens{', moments included' if self.moments_passes else ''}"
            )
        least, most = (sum(passes) / len(passes) for passes in (self.least, self.most))
        tokens = self.document()["measure_tokens"]
        return (
            f"{self.cuts} cuts on {tokens[0]:,} to {tokens[1]:,} tokens each: {least:.1f} to {most:.1f} forward passes"
            " of the calibration windows per layer"
        )


def layer_passes(layer: int, layers: int, cuts: int, windows: int, *, around: bool) -> int:
    """Windows times layers of measuring one layer's cuts: the reference runs through everything, a cut from its layer on."""
    before = layer if around else 0
    return windows * (layers + before + cuts * (layers - layer))


def profile_cost(
    identity: Identity,
    geometry: Geometry,
    measure_windows: int,
    *,
    calibrated: bool = True,
    latent_ranks: Mapping[Latent, Sequence[int]] | None = None,
) -> ProfileCost:
    """The cost of a profile from nothing.

    Args:
        measure_windows: how many the text has.
        calibrated: whether its method solves on moments, which take a pass.
        latent_ranks: the ranks at which its method may make queries or values of latents.
    """
    effort: Effort = identity.effort
    first, most = (min(n, measure_windows) for n in (effort.first_windows, effort.most_windows))
    all_windows = geometry.layers * (identity.document["solution"]["fit_windows"] + most)
    layers = [LayerNeeds(identity, geometry, index, measure_windows) for index in range(geometry.layers)]
    shares: list[list[float]] = []
    for windows in (first, most):
        around = identity.around is not None
        shares.append(
            [
                layer_passes(layer.index, geometry.layers, len(layer.cuts), windows, around=around)
                / all_windows
                for layer in layers
            ]
        )
    if effort.uses_gradients:
        # Attention once more, forwards and back.
        moments = int(calibrated) + _EFFECT_PASSES * (LATENT in (latent_ranks or ()))
        return _from_gradients(
            identity, layers, first, moments_passes=moments, latent_ranks=latent_ranks or {}
        )
    return ProfileCost(
        cuts=len(layers[-1].cuts),
        least=tuple(shares[0]),
        most=tuple(shares[1]),
        first_windows=first,
        most_windows=most,
        window_tokens=identity.document["solution"]["window_tokens"],
    )


_LOCAL_PASSES = {"qk": 0.4, "ov": 0.15, "mlp": 0.25, JOINT: 0.4, LATENT: 0.4}
"""The work of predicting one rank's loss, in passes through the layer: the attention again; a projection; half an MLP."""
_EFFECT_PASSES = 1.0
"""The work of taking the moments of a layer's queries beside the others, in passes through the layer."""


def _from_gradients(
    identity: Identity,
    layers: Sequence[LayerNeeds],
    first_windows: int,
    *,
    moments_passes: float,
    latent_ranks: Mapping[Latent, Sequence[int]],
) -> ProfileCost:
    effort, count = identity.effort, len(layers)
    fit, predicted = identity.document["solution"]["fit_windows"], layers[0].gradient_windows
    local = local_passes(layers[0], latent_ranks)
    measured = sum(
        layer_passes(
            layer.index,
            count,
            len(layer.cuts),
            sum(map(layer.block_size, range(layer.first_blocks))),
            around=False,
        )
        for layer in layers
        if layer.cuts
    )
    gradients = 1 + effort.labels + made_again(count) / count
    passes = moments_passes + (gradients + local) * predicted / fit + measured / (count * fit)
    return ProfileCost(
        cuts=sum(len(layer.cuts) for layer in layers),
        least=(),
        most=(),
        first_windows=first_windows,
        most_windows=first_windows,
        window_tokens=identity.document["solution"]["window_tokens"],
        gradient_windows=predicted,
        passes=passes,
        moments_passes=moments_passes,
    )


def body_windows(window_tokens: int) -> int:
    """Windows that run through the layers together: 4096 tokens. Their logits are computed in smaller parts."""
    return max(1, _TOKENS_PER_BATCH // window_tokens)


def batch_windows(window_tokens: int, vocab: int) -> int:
    """Windows of a batch whose logits are computed at once: 4096 tokens, or fewer where these would exceed 256 MiB."""
    return max(1, min(body_windows(window_tokens), _LOGITS_LIMIT_BYTES // (4 * vocab * window_tokens)))


@dataclass(frozen=True)
class RoundWork:
    """The work of a round of measurements, in windows through one layer: a progress bar's length, in which all items of a
    profile count the same.
    """

    windows: int
    ticks: int
    """How often a batch runs through a layer meanwhile."""
    heads: float
    """The vocabulary's part of ``windows``: as much as everything else together where it has 262,144 words."""


def round_work(layer: LayerNeeds, cuts_by_block: Mapping[int, Sequence[Cut]]) -> RoundWork:
    """The work of measuring these cuts on these blocks, the vocabulary's product of every model included."""
    size = body_windows(layer.identity.document["solution"]["window_tokens"])
    layers, around = layer.geometry.layers, layer.identity.around is not None
    work, heads, ticks = 0.0, 0.0, 0
    for block, cuts in cuts_by_block.items():
        windows = layer.block_size(block)
        passes = layer_passes(layer.index, layers, len(cuts), 1, around=around)
        heads += windows * (1 + len(cuts)) * head_layers(layer.geometry)
        work += windows * passes
        ticks += -(-windows // size) * passes
    return RoundWork(int(work + heads), ticks, heads)


def gradient_work(
    layer: LayerNeeds, block: int, layers: int, latent_ranks: Mapping[Latent, Sequence[int]]
) -> int:
    """The work of predicting the losses of so many layers on a block of windows, in windows through one layer.

    Args:
        layer: any of them.
        latent_ranks: the ranks at which queries or values of latents are predicted too.
    """
    around, all_layers = 1 + layer.effort.labels, layer.geometry.layers
    passes = around * (all_layers + head_layers(layer.geometry)) + made_again(all_layers)
    size = layer.identity.block_windows
    windows = min(size, layer.windows - block * size)
    return int(windows * (passes + layers * local_passes(layer, latent_ranks)))


def segment_layers(layers: int) -> int:
    """The layers of a segment, where states are kept before the first of each: as many as there are segments."""
    return isqrt(max(layers - 1, 0)) + 1


def made_again(layers: int) -> int:
    """The layers whose states are made a second time on the way back: those inside all segments but the last."""
    size = segment_layers(layers)
    return (-(-layers // size) - 1) * (size - 1)


def head_layers(geometry: Geometry) -> float:
    """The vocabulary's product, in products of a layer."""
    shapes = [shape for c in COMPONENTS for shape in geometry.matrices(c, geometry.full_rank(c))]
    return geometry.vocab * geometry.hidden / sum(rows * columns for rows, columns in shapes)


def local_passes(layer: LayerNeeds, latent_ranks: Mapping[Latent, Sequence[int]]) -> float:
    """The work of predicting one layer's losses beside gradients, in passes of its windows through it."""
    geometry, effort = layer.geometry, layer.effort
    return sum(
        _LOCAL_PASSES[c] * len(gradient_ranks(geometry, effort, c))
        for c in COMPONENTS
        if c not in geometry.fixed
    ) + sum(_LOCAL_PASSES[form] * len(ranks) for form, ranks in latent_ranks.items())
