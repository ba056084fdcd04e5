"""What a compression hands out: one object per kind of checkpoint. A new one is a function here and an entry below.

Importing this imports no torch: options, forms and the API derive from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from solvers.surgery import OpenModel
    from solvers.weights import LayerWeights


@dataclass(frozen=True)
class Compressed:
    """A compressed model that is to be written."""

    opened: OpenModel
    """The dense model: embeddings, norms and head are taken from it."""
    layers: Sequence[LayerWeights]
    """On the CPU, at the plan's ranks, in the checkpoint's type."""
    source: Path
    """The model folder, whose tokenizer travels along."""
    dtype: torch.dtype
    bits: Sequence[Mapping[str, int]]


@dataclass(frozen=True)
class Export:
    """A kind of checkpoint, which lies in a folder of its name."""

    name: str
    help: str
    write: Callable[[Compressed, Path], None]
    """(what, the empty folder that it is written into)."""


def _compact(model: Compressed, folder: Path) -> None:
    from solvers.writing import write_compact

    write_compact(model.opened, model.layers, folder, source=model.source, dtype=model.dtype, bits=model.bits)


def _padded(model: Compressed, folder: Path) -> None:
    from solvers.writing import write_padded

    write_padded(model.opened, model.layers, folder, source=model.source, dtype=model.dtype)


COMPACT = Export("compact", "every tensor at its planned size; loads with trust_remote_code", _compact)
"""Always written: it is recounted, and evaluation reads it."""

EXPORTS: dict[str, Export] = {
    export.name: export
    for export in (
        COMPACT,
        Export("padded", "the source's own class and sizes, dropped dimensions as zeros", _padded),
    )
}
"""Checkpoints that a compression may be asked for, all of them by default."""
