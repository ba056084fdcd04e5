"""What a compression hands out: one object per kind of checkpoint. A new one is a function here and an entry below.

Importing this imports no torch: options, forms and the API derive from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.plan.ask.constraints import Constraints
from allocator.plan.gguf_rules import check_gguf, check_gguf_constraints
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks

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
    compact: Path
    """The compact checkpoint's folder, which is written before any other."""


def _anything(*_: Any) -> None:
    """Most exports hold every plan of every model."""


@dataclass(frozen=True)
class Export:
    """A kind of checkpoint, which lies in a folder of its name.

    What an export cannot hold it refuses as early as it can be known: ``check_model`` and ``check_constraints`` before
    anything is measured, ``check_plan`` wherever a plan is at hand. All raise what people are told.
    """

    name: str
    help: str
    write: Callable[[Compressed, Path], None]
    """(what, the empty folder that it is written into)."""
    default: bool = True
    """Whether it is written where nothing is asked for."""
    check_model: Callable[[Path, Any], None] = _anything
    """(model folder, its config)."""
    check_constraints: Callable[[Geometry, Constraints], None] = _anything
    check_plan: Callable[[Geometry, Ranks], None] = _anything


def _compact(model: Compressed, folder: Path) -> None:
    from solvers.writing import write_compact

    write_compact(model.opened, model.layers, folder, source=model.source, dtype=model.dtype, bits=model.bits)


def _padded(model: Compressed, folder: Path) -> None:
    from solvers.writing import write_padded

    write_padded(model.opened, model.layers, folder, source=model.source, dtype=model.dtype)


def _gguf(model: Compressed, folder: Path) -> None:
    from solvers.gguf import write_gguf

    write_gguf(model.compact, folder)


def _check_gguf_model(folder: Path, config: Any) -> None:
    from solvers.gguf import check

    check(folder, config)


COMPACT = Export("compact", "every tensor at its planned size; loads with trust_remote_code", _compact)
"""Always written: it is recounted, and evaluation reads it."""

EXPORTS: dict[str, Export] = {
    export.name: export
    for export in (
        COMPACT,
        Export("padded", "the source's own class and sizes, dropped dimensions as zeros", _padded),
        Export(
            "gguf",
            "for llama.cpp, in f16 and Q8_0; of plans that it can run",
            _gguf,
            default=False,
            check_model=_check_gguf_model,
            check_constraints=check_gguf_constraints,
            check_plan=check_gguf,
        ),
    )
}
"""Checkpoints that a compression may be asked for."""
DEFAULT_EXPORTS = tuple(export.name for export in EXPORTS.values() if export.default)


def asked(request: Mapping[str, Any]) -> list[Export]:
    """The exports of a request for a compression."""
    return [EXPORTS[name] for name in request.get("export") or DEFAULT_EXPORTS]
