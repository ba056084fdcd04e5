"""Finished layers of one solution in the job's folder: a worker that dies has lost the layer it was at.

Each layer is a published folder of its own (``allocator.profiling.artifacts``): whole or not there, hashed, checked on use.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.errors import RankallocError
from allocator.profiling.artifacts import checked_file, publish_folder
from allocator.stages.pipeline import StageContext

if TYPE_CHECKING:
    from solvers.weights import LayerWeights

log = logging.getLogger(__name__)

_WEIGHTS, _FACTS = "weights.safetensors", "facts.json"


def publish_partial(context: StageContext, target: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a folder, and name it ``target``, in the job's own; what another attempt has put there stays."""
    temporary = context.temporary_dir() / f"{target.parent.name}-{target.name}"
    temporary.mkdir()
    write(temporary)
    target.parent.mkdir(parents=True, exist_ok=True)
    publish_folder(temporary, target)
    shutil.rmtree(temporary, ignore_errors=True)


class FinishedLayers:
    """The layers of the solution that ``key`` names, in ``folder``."""

    def __init__(self, context: StageContext, folder: Path, key: str) -> None:
        self._context, self._folder, self._key = context, folder, key

    def get(self, layer: int) -> tuple[LayerWeights, Any] | None:
        """A layer as it was put, mapped from its file, and its record; None: there is none. One that is damaged, or another
        solution's, is removed.
        """
        from solvers.weights import load_layer

        folder = self._at(layer)
        if not folder.is_dir():
            return None
        try:
            facts = json.loads(checked_file(folder, _FACTS).read_text(encoding="utf-8"))
            path = checked_file(folder, _WEIGHTS)
        except RankallocError as error:
            log.warning("layer %d is solved again: %s", layer, error.detail)
            return None
        if (facts["key"], facts["layer"]) != (self._key, layer):
            log.warning("layer %d is solved again: what was there is of another solution", layer)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return load_layer(path), facts["record"]

    def put(self, layer: int, weights: LayerWeights, record: Any = None) -> LayerWeights:
        """Store a layer on the CPU, and give it back mapped from its file. What another attempt has stored stays: it is the
        same.
        """
        from solvers.weights import load_layer, save_layer

        if (stored := self.get(layer)) is not None:
            return stored[0]

        def write(folder: Path) -> None:
            save_layer(folder / _WEIGHTS, weights)
            facts = {"key": self._key, "layer": layer, "record": record}
            (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

        publish_partial(self._context, self._at(layer), write)
        return load_layer(self._at(layer) / _WEIGHTS)

    def _at(self, layer: int) -> Path:
        return self._folder / str(layer)
