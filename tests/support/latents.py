"""Tiny models whose queries or values are made of latents, in place and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from allocator.plan.model.precision import JOINT, LATENT, Latent
from solvers.a3 import moments
from solvers.a3.compress import in_float64
from solvers.a3.ov_latent import solve_ov_latent
from solvers.a3.queries import solve_queries
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored, write_compact, write_padded
from solvers.model.surgery import OpenModel, open_model
from solvers.weights import LayerWeights
from tests.support.models import save, tiny, token_ids

SOLVE: dict[Latent, Any] = {JOINT: solve_ov_latent, LATENT: solve_queries}


def solved(model: Any, ids: torch.Tensor, form: Latent) -> tuple[OpenModel, list[Any]]:
    """The opened model, and the latents of each of its layers."""
    opened = open_model(model)
    found = moments.collect(opened, ids, forms=(form,))
    latents = [SOLVE[form](in_float64(opened.source[index]), each) for index, each in enumerate(found)]
    assert all(each is not None for each in latents)
    return opened, latents


def cut(model: Any, ids: torch.Tensor, form: Latent, rank: int) -> tuple[OpenModel, list[LayerWeights]]:
    """A model whose layers have latents at ``rank`` and on, layer by layer, in place, and their weights."""
    opened, latents = solved(model, ids, form)
    layers = [
        latent.apply(in_float64(opened.source[index]), rank + index) for index, latent in enumerate(latents)
    ]
    for index, weights in enumerate(layers):
        opened.put(index, weights)
    return opened, layers


def exported(
    family: str, options: dict[str, Any], root: Path, form: Latent, rank: int
) -> tuple[Path, Path, list[LayerWeights]]:
    """Compact and padded checkpoints whose first layer alone has a latent, and their layers."""
    folders = compact, padded = root / "compact", root / "padded"
    save(tiny(family, **options).float(), root / "source")
    inspected = reading.inspect(root / "source")
    model = reading.load(inspected, dtype=None)
    model.config._experts_implementation = "eager"
    opened, latents = solved(model, token_ids(4, 40), form)
    dtype, dense = reading.storage_dtype(inspected), [in_float64(each) for each in opened.source]
    layers = [stored(latents[0].apply(dense[0], rank), dtype).to(dtype=dtype), opened.source[1]]
    for folder, write in ((compact, write_compact), (padded, write_padded)):
        folder.mkdir()
        write(opened, layers, folder, source=root / "source", dtype=dtype)
    return *folders, layers
