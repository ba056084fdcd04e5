"""Apply a plan: solve, cut, write the checkpoints, and recount what was written against what was promised."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allocator.base.errors import CountMismatch
from allocator.base.memory import give_back_freed_memory
from allocator.base.settings import Settings
from allocator.plan.ask.constraints import target_of
from allocator.plan.documents.plan import Plan
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import LATENT, latents_of
from allocator.plan.model.ranks import Ranks
from allocator.stages.exports import COMPACT, EXPORTS, Compressed, default_exports
from allocator.stages.facts import facts_of, geometry_of, job_plan
from allocator.stages.inputs import open_source, solver_errors
from allocator.stages.pipeline import CLOSED_FORM, ItemSpec, JobView, StageContext
from allocator.stages.solving import compressed_layers, solution_folder
from allocator.stages.sources import model_folder
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.model.surgery import OpenModel
    from solvers.weights import LayerWeights


class ApplyStage:
    """One item; publishes ``compact``, ``padded`` (as asked for) and ``plan.json``; before a healing ``closed-form`` too."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("checkpoint")]

    def run(self, context: StageContext) -> dict[str, Any]:
        plan = job_plan(context)
        opened = open_source(context)
        layers, feedback = compressed_layers(context, opened, plan.chosen, solver=plan.solver)
        counted = write_checkpoints(
            context, opened, layers, plan, keep_closed_form=bool(context.job.request.heal)
        )
        file = context.temporary_dir() / "plan.json"
        file.write_text(json.dumps(plan.document, indent=2), encoding="utf-8")
        context.publish_artifact(file, "plan.json")
        context.event(
            "checkpoint.written",
            _counted_text(counted, plan),
            {"params": counted["params"], "kv_bytes_per_token": counted["kv_bytes_per_token"]},
        )
        context.let_go(solution_folder(context, plan.chosen, plan.solver))
        return {
            "counted": {key: counted[key] for key in ("params", "kv_bytes_per_token")},
            "exports": exports_of(context, plan),
            "feedback": feedback,
        }


def _counted_text(counted: dict[str, Any], plan: Plan) -> str:
    """The counts of the written tensors, and the cache that the plan's engine makes of them."""
    text = (
        f"{counted['params']:,} parameters and {counted['kv_bytes_per_token']} KV bytes per token, as planned"
    )
    target, cache = target_of(plan.constraints.written), plan.costs["kv_bytes_per_token"]
    return text if cache == counted["kv_bytes_per_token"] else f"{text}; {target.name} caches {cache:,} bytes"


def exports_of(context: StageContext, plan: Plan) -> list[str]:
    """The exports that the request asks for, or those that the plan's target loads."""
    return context.job.request.export or default_exports(target_of(plan.constraints.written))


def write_checkpoints(
    context: StageContext,
    opened: OpenModel,
    layers: Sequence[LayerWeights],
    plan: Plan,
    *,
    keep_closed_form: bool = False,
) -> dict[str, Any]:
    """Write the job's exports of ``layers``, recount them, and only then publish them; what was there is replaced.

    Every folder is replaced whole.

    Args:
        layers: on the CPU, at the plan's ranks, in the checkpoint's type.
        keep_closed_form: publish a copy of ``compact`` as ``closed-form``.

    Returns:
        the recount of the compact export.

    Raises:
        CountMismatch: it is not what was planned; nothing is published.
    """
    import torch

    from solvers.checkpoints.recounting import recount

    job = context.job
    geometry, dtype = geometry_of(job), getattr(torch, facts_of(job)["storage_dtype"])
    folder, source = context.temporary_dir(), model_folder(context.settings, job.request.model)
    compact = folder / COMPACT.name
    target = target_of(plan.constraints.written)
    model = Compressed(opened, layers, source, dtype, plan.chosen.widths(), target, compact)
    COMPACT.write(model, compact)
    counted = recount(compact, layer_count=geometry.layers)
    check_counts(geometry, plan.chosen, counted)
    text = json.dumps(plan.document, indent=2)
    (compact / "plan.json").write_text(text, encoding="utf-8")
    for name in exports_of(context, plan):
        if name != COMPACT.name:
            give_back_freed_memory()  # an export holds the tensors of a file
            with solver_errors():
                EXPORTS[name].write(model, folder / name)
            (folder / name / "plan.json").write_text(text, encoding="utf-8")
            context.publish_artifact(folder / name, name)
    if keep_closed_form:
        shutil.copytree(compact, folder / CLOSED_FORM)
        context.publish_artifact(folder / CLOSED_FORM, CLOSED_FORM)
    # Evaluation reads the compact export, so it is always written; who delivers drops it if it was not asked for.
    context.publish_artifact(compact, COMPACT.name)
    return counted


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
        latent = LATENT in latents_of(row)
        sizes = {
            "latent": row["qk"] * geometry.heads * latent,
            "k": (geometry.head_dim if latent else row["qk"]) * geometry.kv_heads,
            "v": row["ov"] * geometry.kv_heads,
            "mlp": row["mlp"],
        }
        differing += [
            f"layer {row['layer']} {kind}: planned {size}, written {layer[kind]}"
            for kind, size in sizes.items()
            if layer[kind] != size
        ]
    if differing:
        raise CountMismatch(f"the written checkpoint is not what was planned: {'; '.join(differing[:5])}")
