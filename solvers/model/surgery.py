"""Put mixed-rank layers into a loaded model, and run a model in pieces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from solvers.families import FAMILIES, Call, Family
from solvers.modeling_rankalloc import COMPACT_PREFIX
from solvers.weights import LayerWeights

_PROJECTIONS = ("q_down", "q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass
class OpenModel:
    """A loaded model whose layers can be read, exchanged and run one by one.

    ``source`` holds every layer's original weights, as stored; the model itself carries mixed-rank modules in their place, at
    full rank until ``put`` says otherwise. Nothing is shared between the two. At most ``resident`` layers are in memory as
    modules, those that were run last and those that were ``put``: the others are made from ``source`` when they are run,
    which the operating system reads from the checkpoint's own files (``solvers.checkpoints.reading.load`` maps them).
    """

    model: Any
    family: Family
    source: Sequence[LayerWeights]
    resident: int = sys.maxsize
    _clean: dict[int, None] = field(default_factory=dict)
    """Layers in memory with their original weights, those that were used last at the end."""
    _changed: set[int] = field(default_factory=set)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def layer(self, index: int) -> Any:
        """Layer ``index`` as a module, made now if it is not in memory."""
        if index not in self._changed:
            if self._clean.pop(index, self) is self:
                # Layers take turns in the same memory: freed and allocated again it would lie between what they compute,
                # and the heap grew to twice what is used.
                spare: list[torch.Tensor] = []
                while len(self._clean) >= max(self.resident - len(self._changed), 1):
                    spare = self._let_go(next(iter(self._clean)))
                self.family.put(self.model, index, self.source[index], spare)
            self._clean[index] = None
        return self.family.layers(self.model)[index]

    def attention(self, index: int) -> Any:
        return getattr(self.layer(index), self.family.attention_name)

    def put(self, index: int, weights: LayerWeights) -> None:
        """Give layer ``index`` these weights, at whatever ranks they have, in the model's dtype and on its device."""
        self._clean.pop(index, None)
        self._changed.add(index)  # first: an interruption must not leave a cut layer that counts as whole
        self.family.put(self.model, index, weights)

    def reset(self, index: int) -> None:
        """Give layer ``index`` its original weights back."""
        if index in self._changed:
            self._changed.remove(index)
            self.layer(index)

    def release(self, index: int) -> None:
        """Forget what layer ``index`` was given, and free it; it has its original weights again when it runs next."""
        self._changed.discard(index)
        self._clean[index] = None
        self._let_go(index)

    def rebase(self, layers: Sequence[LayerWeights]) -> None:
        """Take ``layers`` for the original ones: they are made when they run and let go beyond ``resident``, as those were.

        They are asked for where they are needed and not kept, so they may be ``solvers.weights.OnDemand``.
        """
        self.source = layers
        for index in range(len(layers)):
            self.release(index)

    def _let_go(self, index: int) -> list[torch.Tensor]:
        """Free what a layer holds of its projections, and return it; norms, which are not in ``source``, stay."""
        freed: list[torch.Tensor] = []
        del self._clean[index]
        layer = self.family.layers(self.model)[index]
        modules = getattr(layer, self.family.attention_name), getattr(layer, "mlp", None)
        for module, names in zip(modules, _PROJECTIONS, strict=True):
            for name in names:
                if isinstance(projection := getattr(module, name, None), nn.Linear):
                    freed += [
                        parameter.data for parameter in projection.parameters() if not parameter.is_meta
                    ]
                    projection.to("meta")
        return freed

    @torch.no_grad()
    def start(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """Hidden states (B, T, D) before layer 0, and the keyword arguments of every layer."""
        return self.family.embed(self.model, input_ids.to(self.device))

    def starts(self, parts: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[list[Call]]]:
        """Hidden states before layer 0 and the keyword arguments of every layer, for each batch of token ids.

        They are apart, so that states which later ones take the place of are freed.
        """
        hidden, calls = [], []
        for part in parts:
            states, call = self.start(part)
            hidden.append(states)
            calls.append(call)
        return hidden, calls

    @torch.no_grad()
    def advance(self, hidden: torch.Tensor, calls: list[Call], first: int, last: int) -> torch.Tensor:
        """Run layers ``first`` to ``last - 1``."""
        for index in range(first, last):
            hidden = self.layer(index)(hidden, **calls[index])
        return hidden

    def through(
        self,
        index: int,
        hidden: list[torch.Tensor],
        calls: Sequence[list[Call]],
        on_pass: Callable[[], None] = lambda: None,
    ) -> None:
        """Run one layer on every batch, each in the place of what went in: of a whole text there is never a second set.

        Args:
            on_pass: called after every batch.
        """
        for number, call in enumerate(calls):
            hidden[number] = self.advance(hidden[number], call, index, index + 1)
            on_pass()

    @torch.no_grad()
    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) in float32 from the last layer's hidden states."""
        return self.family.logits(self.model, hidden).float()

    def finish(self, hidden: torch.Tensor, calls: list[Call], first: int) -> torch.Tensor:
        """Logits (B, T, V) in float32, from the hidden states before layer ``first``."""
        return self.head(self.advance(hidden, calls, first, len(self.source)))

    def states(
        self, parts: Sequence[torch.Tensor], on_pass: Callable[[], None] = lambda: None
    ) -> Iterator[torch.Tensor]:
        """Last hidden states (B, T, D) of each batch of token ids, all of them run layer by layer: each is made once.

        Args:
            on_pass: called after every batch of every layer.
        """
        hidden, calls = self.starts(parts)
        for index in range(len(self.source)):
            self.through(index, hidden, calls, on_pass)
        yield from hidden

    def logits(self, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Logits (B, T, V) in float32 of each batch of token ids."""
        yield from map(self.head, self.states(parts))

    @contextmanager
    def exchanged(self, layers: Sequence[LayerWeights]) -> Iterator[None]:
        """Within it the model has these layers; afterwards its own again."""
        own = self.source
        self.rebase(layers)
        try:
            yield
        finally:
            self.rebase(own)


def open_model(model: Any, *, memory_bytes: int | None = None, device: str | None = None) -> OpenModel:
    """Take over a loaded model, stock or compact, in whatever type its weights are stored: the same function in float32.

    Args:
        device: where the model runs, if not where it is. Layers move there when they are made; ``source`` stays.
        memory_bytes: how much layers may take as float32 modules; at least two are kept. None: as much as they need.

    Raises:
        KeyError: the model's family has no adapter (``solvers.checkpoints.reading.inspect`` refuses it before).
    """
    model_type = model.config.model_type.removeprefix(COMPACT_PREFIX)
    family = FAMILIES[model_type]
    model.requires_grad_(False)
    dtype = torch.promote_types(model.dtype, torch.float32)
    if model_type == model.config.model_type:
        source = [family.read_layer(model.config, layer) for layer in family.layers(model)]
    else:
        source = [family.read(model, index) for index in range(len(family.layers(model)))]
    source_pointers = [t.data_ptr() for layer in source for t in layer.tensors().values()]
    for parameter in model.parameters():
        # Fused weights are read in parts. (All tensors of a mapped file share one storage, so that tells nothing.)
        start = parameter.data_ptr()
        if not any(start <= pointer < start + parameter.nbytes for pointer in source_pointers):
            parameter.data = parameter.data.to(dtype=dtype, device=device)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device=device)
    for module in model.modules():
        # Gemma rounds it to the type that it was loaded in.
        if hasattr(module, "scalar_embed_scale") and module.embed_scale.dtype != dtype:
            module.embed_scale = torch.tensor(module.scalar_embed_scale, dtype=dtype, device=model.device)
    resident = sys.maxsize
    if memory_bytes is not None:
        largest = max(sum(t.numel() for t in layer.tensors().values()) for layer in source)
        resident = max(2, memory_bytes // (largest * dtype.itemsize))
    opened = OpenModel(model=model.eval(), family=family, source=source, resident=resident)
    for index in range(len(source)):
        opened.layer(index)
    return opened
