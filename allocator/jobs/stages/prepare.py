"""Read the model and the texts, hash them, name the profile: everything that may be wrong is found here."""

from __future__ import annotations

from typing import Any

from allocator.budgets import parse_budgets
from allocator.costs import CostModel
from allocator.errors import FieldError, InvalidInput
from allocator.geometry import Geometry
from allocator.jobs.pipeline import ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import preflight, set_up_torch, shown_reference, solver_errors
from allocator.profiling.effort import DEFAULT_SOLVER, EFFORTS, identity
from allocator.program import check_feasible
from allocator.settings import Settings
from allocator.store import Store


class Prepare:
    """One item."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("inputs")]

    def run(self, context: StageContext) -> dict[str, Any]:
        from solvers import SOLVER_VERSIONS, reading
        from solvers.families import FAMILIES
        from solvers.text import tokenizer_sha256

        set_up_torch(context.settings)
        request, settings = context.job.request, context.settings
        solver, effort = request.get("solver") or DEFAULT_SOLVER, EFFORTS[request.get("effort") or "standard"]
        if solver not in SOLVER_VERSIONS:
            allowed = ", ".join(SOLVER_VERSIONS)
            raise InvalidInput(
                f"solver: {solver!r} is unknown; use one of {allowed}",
                fields=[FieldError("solver", solver, allowed)],
            )
        inputs = preflight(settings, request, kind=context.job.kind)
        inspected, calibration, evaluation = inputs.inspected, inputs.calibration, inputs.evaluation
        with solver_errors():
            dtype = reading.storage_dtype(inspected)
            model = reading.load(inspected, dtype=None)
        geometry = Geometry(
            **FAMILIES[inspected.model_type].geometry(model.config),
            total_params=sum(parameter.numel() for parameter in model.parameters()),
            bytes_per_param=dtype.itemsize,
        )
        weights, tokenizer = reading.weights_sha256(inspected), tokenizer_sha256(inspected.folder)
        fit, measure = (
            len(calibration.fit(effort.fit_windows)),
            len(calibration.measure(effort.measure_windows)),
        )
        named = identity(
            weights_sha256=weights,
            config_sha256=inspected.config_sha256,
            tokenizer_sha256=tokenizer,
            geometry=geometry,
            calibration_sha256=calibration.sha256,
            window_tokens=inputs.window_tokens,
            prefix=list(calibration.prefix),
            fit_windows=fit,
            measure_windows=measure,
            solver_version=SOLVER_VERSIONS[solver],
            points=effort.points,
        )
        if context.job.kind != "profile":
            _refuse_infeasible(geometry, request["budgets"])
        reference = shown_reference(request["model"])
        facts = {
            "reference": reference,
            "weights_sha256": weights,
            "geometry": geometry.document(),
            "storage_dtype": str(dtype).removeprefix("torch."),
            "solver": solver,
            "window_tokens": inputs.window_tokens,
            "calibration": {
                "sha256": calibration.sha256,
                "tokens": calibration.tokens,
                "fit_windows": fit,
                "measure_windows": measure,
            },
            "evaluation": evaluation and {"sha256": evaluation.sha256, "tokens": evaluation.tokens},
            "identity": named.document,
            "profile_key": named.profile_key,
        }
        context.store.models.put(
            context.job.team,
            weights,
            reference,
            {key: facts[key] for key in ("reference", "weights_sha256", "geometry", "storage_dtype")},
        )
        context.link(weights_sha256=weights, profile_key=named.profile_key)
        context.event(
            "model.read",
            f"{inspected.model_type}: {geometry.layers} layers, {geometry.total_params:,} parameters;"
            f" calibration on {fit} + {measure} windows of {inputs.window_tokens} tokens.",
        )
        return facts


def _refuse_infeasible(geometry: Geometry, budgets: list[str]) -> None:
    """Say so before hours of profiling: feasibility needs no curves."""
    from allocator.planning import feasibility_program

    check_feasible(*feasibility_program(CostModel(geometry), parse_budgets(budgets)))
