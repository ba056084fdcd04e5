"""A model folder made ready for the clock. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.settings import Settings
from allocator.stages.inputs import set_up_torch, solver_errors

if TYPE_CHECKING:
    from allocator.profiling.timing.models import Setup


def timed_model(settings: Settings, folder: Path, dtype: str | None, **options: Any) -> Setup:
    """The setup that times the model in a folder, on the settings' device.

    Args:
        dtype: torch's name of a type; None: the checkpoint's own.
        options: of `Setup`.

    Raises:
        UnreadableModel, UnsupportedModel: the folder cannot be read.
    """
    import torch

    from allocator.profiling.timing.models import Setup, geometry_without_weights
    from solvers.checkpoints import reading

    set_up_torch(settings)
    with solver_errors():
        inspected = reading.inspect(folder)
        stored = reading.storage_dtype(inspected)
        config, geometry = geometry_without_weights(inspected, stored)
    timed_dtype = stored if dtype is None else getattr(torch, dtype)
    return Setup(config, geometry, timed_dtype, torch.device(settings.device), **options)
