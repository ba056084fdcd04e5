"""The dense model's hidden states on the batches that cuts and whole models are compared with it on, held from one item to the
next.

A cut of layer i restarts from the dense states before that layer, and its predictions are compared with the dense model's. Of
every batch there are two states: before the layer that was reached, and the last. Layers are measured in rising order, so all
of a model's layers together take two dense passes in place of one each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from solvers.model.surgery import OpenModel

_MOST_TOKENS = 96 * 256
"""Tokens of the batches that are held: as many as the dearest effort measures losses on."""


@dataclass
class Reference:
    """The dense model on one batch of token ids (B, T)."""

    input_ids: torch.Tensor
    calls: list[dict[str, Any]]
    """The keyword arguments of every layer."""
    reached: int
    states: torch.Tensor
    """(B, T, D): before layer ``reached``."""
    last: torch.Tensor | None = None
    """(B, T, D): behind all layers, once they have been run."""

    @classmethod
    def begin(cls, opened: OpenModel, input_ids: torch.Tensor) -> Reference:
        hidden, calls = opened.start(input_ids)
        return cls(input_ids, calls, 0, hidden)

    def rewind(self, opened: OpenModel, layer: int) -> None:
        """Start again where a layer behind ``layer`` was reached."""
        if self.reached > layer:
            self.reached, self.states = 0, opened.start(self.input_ids)[0]

    def advance(self, run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Go on by one layer."""
        self.states, self.reached = run(self.states), self.reached + 1


class References:
    """The batches that were measured on last, of one model."""

    def __init__(self) -> None:
        self._held: list[Reference] = []

    def of(self, opened: OpenModel, input_ids: torch.Tensor) -> Reference:
        """The dense model on this batch, as far as it has been run."""
        reference = self._of(input_ids)
        if reference is None:
            reference = Reference.begin(opened, input_ids)
        self._held = [other for other in self._held if other is not reference] + [reference]
        while len(self._held) > 1 and sum(other.input_ids.numel() for other in self._held) > _MOST_TOKENS:
            del self._held[0]
        return reference

    def last(
        self, opened: OpenModel, parts: Sequence[torch.Tensor], on_pass: Callable[[], None]
    ) -> list[torch.Tensor]:
        """The dense model's last states (B, T, D) on each of these batches; those that are held are not run.

        Args:
            on_pass: called after every batch of every layer, at once for those that are not run.
        """
        references = [self.of(opened, part) for part in parts]
        missing = [reference for reference in references if reference.last is None]
        for _ in range((len(references) - len(missing)) * len(opened.source)):
            on_pass()
        states = opened.states([reference.input_ids for reference in missing], on_pass)
        for reference, last in zip(missing, states, strict=True):
            reference.last = last
        return [reference.last for reference in references if reference.last is not None]

    def passes(self, input_ids: torch.Tensor, layer: int, layers: int) -> int:
        """How many layers this batch has still to run through, for cuts of ``layer``, of so many, to be measured on it."""
        reference = self._of(input_ids)
        if reference is None or reference.last is None:
            return layers
        return layer - reference.reached if reference.reached <= layer else layer

    def _of(self, input_ids: torch.Tensor) -> Reference | None:
        return next((other for other in self._held if torch.equal(other.input_ids, input_ids)), None)
