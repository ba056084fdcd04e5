"""The exports of a compression: one object per kind of checkpoint. A new one is a function here and an entry below.

Importing this imports no torch: options, forms and the API derive from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.errors import InvalidInput
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.held import check_held, misfit
from allocator.plan.targets.llama_cpp import GGUF
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.plan.targets.target import Target

if TYPE_CHECKING:
    import torch

    from solvers.model.surgery import OpenModel
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
    target: Target
    """The plan's, whose head sizes *compact* names."""
    compact: Path
    """The compact checkpoint's folder, which is written before any other."""


def _anything(*_: Any) -> None:
    """Most exports take every model."""


@dataclass(frozen=True)
class Export:
    """A kind of checkpoint, which lies in a folder of its name."""

    name: str
    help: str
    write: Callable[[Compressed, Path], None]
    """(what, the empty folder that it is written into)."""
    targets: tuple[str, ...] = ()
    """Those whose plans it holds, where it does not hold all."""
    check_model: Callable[[Path, Any], None] = _anything
    """(model folder, its config): raises what people are told where it cannot be written for this model."""


def _compact(model: Compressed, folder: Path) -> None:
    from solvers.checkpoints.head_sizes import everywhere
    from solvers.checkpoints.writing import write_compact

    write_compact(
        model.opened,
        model.layers,
        folder,
        source=model.source,
        dtype=model.dtype,
        bits=model.bits,
        head_size=model.target.head_size or everywhere,
    )


def _padded(model: Compressed, folder: Path) -> None:
    from solvers.checkpoints.writing import write_padded

    write_padded(model.opened, model.layers, folder, source=model.source, dtype=model.dtype)


def _stock(model: Compressed, folder: Path) -> None:
    from solvers.checkpoints.writing import write_stock

    write_stock(model.opened, model.layers, folder, source=model.source, dtype=model.dtype)


def _gguf(model: Compressed, folder: Path) -> None:
    from solvers.gguf import write_gguf

    write_gguf(model.compact, folder)


def _check_gguf(folder: Path, config: Any) -> None:
    from solvers.gguf import check

    check(folder, config)


COMPACT = Export("compact", "every tensor at its planned size; loads with trust_remote_code", _compact)
"""Always written: it is recounted, and evaluation reads it."""

PADDED = Export("padded", "the source's own class and sizes, dropped dimensions as zeros", _padded)

EXPORTS: dict[str, Export] = {
    export.name: export
    for export in (
        COMPACT,
        PADDED,
        Export("stock", "the source's own class, smaller MLPs; needs --target stock", _stock, ("stock",)),
        Export(
            GGUF,
            "files for llama.cpp in f16 and Q8_0; needs --target llama.cpp or llama.cpp-kv",
            _gguf,
            ("llama.cpp", "llama.cpp-kv"),
            _check_gguf,
        ),
    )
}
"""Checkpoints that a compression may be asked for."""


def default_exports(target: Target) -> list[str]:
    """The exports where none is asked for: those that the target loads, beside *compact*, which is always there."""
    names = (COMPACT.name, PADDED.name) if target is PLAIN else (COMPACT.name, *target.exports)
    return list(dict.fromkeys(names))


def check_exports(names: Sequence[str], target: Target) -> None:
    """Raises InvalidInput for an export that holds only what another target plans."""
    for export in (EXPORTS[name] for name in names):
        if export.targets and target.name not in export.targets:
            beside = f"beside --target {' or '.join(export.targets)}, which plans what it can hold"
            allowed = f"{beside}; the target is {target.name}"
            raise InvalidInput.of("export", export.name, allowed, f"{export.name} works")


def check_plan_exports(
    names: Sequence[str], geometry: Geometry, ranks: Ranks, target: Target = PLAIN
) -> None:
    """Raises InvalidInput for an export that cannot hold the ranks of a plan made for ``target``."""
    for export in (EXPORTS[name] for name in names):
        targets = [TARGETS[name] for name in export.targets]
        if targets and all(misfit(target, geometry, ranks) is not None for target in targets):
            check_held(target if target in targets else targets[0], geometry, ranks, "export")
