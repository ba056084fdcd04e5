"""Apply a plan: solve, cut, write the checkpoints, and recount what was written against what was promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from allocator.costs import CostModel, Ranks
from allocator.errors import CountMismatch
from allocator.geometry import Geometry
from allocator.jobs.pipeline import ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import (
    compressed_layers,
    geometry_of,
    job_plan,
    model_folder,
    open_source,
    prepared,
)
from allocator.settings import Settings
from allocator.store import Store

EXPORTS = ("compact", "padded")


class Apply:
    """One item; publishes ``compact``, ``padded`` (as asked for) and ``plan.json``."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("checkpoint")]

    def run(self, context: StageContext) -> dict[str, Any]:
        import torch

        from solvers.writing import recount, write_compact, write_padded

        job = context.job
        plan = job_plan(context)
        geometry, dtype = geometry_of(job), getattr(torch, prepared(job)["storage_dtype"])
        exports = job.request.get("export") or list(EXPORTS)
        opened = open_source(context)
        layers, feedback = compressed_layers(
            context, opened, plan["ranks"], solver=plan["solver"], unit="layers"
        )
        folder, source = context.temporary_dir(), model_folder(context.settings, job.request["model"])
        compact = folder / "compact"
        write_compact(opened, layers, compact, source=source, dtype=dtype)
        counted = recount(compact, layer_count=geometry.layers)
        check_counts(geometry, Ranks.from_layers(plan["ranks"]), counted)
        text = json.dumps(plan, indent=2)
        if "padded" in exports:
            write_padded(opened, layers, folder / "padded", source=source, dtype=dtype)
            _publish(context, folder / "padded", "padded", text)
        # Evaluation reads the compact export, so it is always written; the report drops it if it was not asked for.
        _publish(context, compact, "compact", text)
        (folder / "plan.json").write_text(text, encoding="utf-8")
        context.publish_artifact(folder / "plan.json", "plan.json")
        context.event(
            "checkpoint.written",
            f"{counted['params']:,} parameters and {counted['kv_bytes_per_token']} KV bytes per token, as planned",
            {"params": counted["params"], "kv_bytes_per_token": counted["kv_bytes_per_token"]},
        )
        return {
            "counted": {key: counted[key] for key in ("params", "kv_bytes_per_token")},
            "exports": list(exports),
            "feedback": feedback,
        }


def _publish(context: StageContext, folder: Path, name: str, plan: str) -> None:
    (folder / "plan.json").write_text(plan, encoding="utf-8")
    context.publish_artifact(folder, name)


def check_counts(geometry: Geometry, ranks: Ranks, counted: dict[str, Any]) -> None:
    """Compare a recount of written tensors with the cost model and the ranks.

    Raises:
        CountMismatch: parameters, cache bytes or any layer's sizes differ.
    """
    promised = CostModel(geometry).summary(ranks)
    differing = [
        f"{name}: planned {promised[name]}, written {counted[name]}"
        for name in ("params", "kv_bytes_per_token")
        if promised[name] != counted[name]
    ]
    for row, layer in zip(ranks.layers(), counted["layers"], strict=True):
        sizes = {"k": row["qk"] * geometry.kv_heads, "v": row["ov"] * geometry.kv_heads, "mlp": row["mlp"]}
        differing += [
            f"layer {row['layer']} {kind}: planned {size}, written {layer[kind]}"
            for kind, size in sizes.items()
            if layer[kind] != size
        ]
    if differing:
        raise CountMismatch(f"the written checkpoint is not what was planned: {'; '.join(differing[:5])}")
