"""Read the model and the texts, hash them, name the profile: everything that may be wrong is found here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.methods.registry import DEFAULT_METHOD
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.identity import Identity, identity
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import Latent
from allocator.plan.program.solve import check_feasible
from allocator.profiling.cost import ProfileCost, profile_cost
from allocator.report.document import seen_text
from allocator.stages.facts import requested_latency_table
from allocator.stages.inputs import set_up_torch
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.request import Request
from allocator.stages.reuse import check_comparable
from allocator.stages.task import ReadModel, Task, read_model, task_of
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.texts.text import Text

PLAIN_TEXT = "plain text"
_ANOTHER_TEXT = "Rise and perplexity say too little of other texts; name another one as evaluation"


class PrepareStage:
    """One item."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("inputs")]

    def run(self, context: StageContext) -> dict[str, Any]:
        set_up_torch(context.settings)
        task = task_of(context)
        model = read_model(context, task)
        profile_identity = _identity(context, task, model)
        if task.plan is None and context.job.request.allocates:
            latents = task.method.latent_ranks(model.geometry)
            _check_budgets(context, model.geometry, task.bits, latents)
        cost = profile_cost(
            profile_identity,
            model.geometry,
            model.measure,
            calibrated=task.method.calibrated,
            latent_ranks=task.method.latent_ranks(model.geometry),
        )
        facts = _facts(task, model, profile_identity, cost, context.job.request)
        if task.profile is not None:
            check_comparable(task.profile, facts)
        _record(context, task, facts)
        _add_reading_events(context, model, facts)
        stored = context.store.profiles.exists(context.job.team, profile_identity.profile_key)
        if task.profile is None and task.plan is None and not stored:
            context.event("profile.cost", f"profile to make: {cost.sentence()}", cost.document())
        return facts


def _identity(context: StageContext, task: Task, model: ReadModel) -> Identity:
    """The identity of the profile: what it depends on and is named by."""
    from solvers.texts.text import tokenizer_sha256

    inspected, calibration = model.inputs.inspected, model.inputs.calibration
    return identity(
        weights_sha256=model.weights_sha256,
        config_sha256=inspected.config_sha256,
        tokenizer_sha256=tokenizer_sha256(inspected.folder),
        geometry=model.geometry,
        calibration_sha256=calibration.sha256,
        window_tokens=model.inputs.windows.calibration_tokens,
        prefix=list(calibration.prefix),
        fit_windows=model.fit,
        solver_version=task.method.version,
        effort=model.effort,
        around=_around(context, model.weights_sha256),
        bits=task.bits,
        latents=task.method.latents,
    )


def _facts(
    task: Task, model: ReadModel, profile_identity: Identity, cost: ProfileCost, request: Request
) -> dict[str, Any]:
    """The facts that later stages go by: the result of this one."""
    windows, calibration, evaluation = model.inputs.windows, model.inputs.calibration, model.inputs.evaluation
    return {
        "reference": model.reference,
        "weights_sha256": model.weights_sha256,
        "geometry": model.geometry.document,
        "storage_dtype": str(model.dtype).removeprefix("torch."),
        "solver": task.method.name,
        "window_tokens": windows.calibration_tokens,
        "calibration": {
            "sha256": calibration.sha256,
            "tokens": calibration.tokens,
            "fit_windows": model.fit,
            "measure_windows": model.measure,
        },
        "evaluation": evaluation
        and {
            "sha256": evaluation.sha256,
            "tokens": evaluation.tokens,
            "window_tokens": windows.evaluation_tokens,
            "windows": len(model.judged),
            "shared_windows": model.shared_windows,
        },
        "read": {
            name: {"documents": text.documents, "form": text.form}
            | ({"source": request.sources[name]} if name in request.sources else {})
            for name, text in model.texts.items()
        },
        "identity": profile_identity.document,
        "profile_key": profile_identity.profile_key,
        "cost": cost.document(),
        "first_windows": min(model.effort.first_windows, model.measure),
    }


def _record(context: StageContext, task: Task, facts: dict[str, Any]) -> None:
    """Store the model, and link the job to it and to its profile."""
    keys = ("reference", "weights_sha256", "geometry", "storage_dtype")
    weights, reference = facts["weights_sha256"], facts["reference"]
    context.store.models.put(context.job.team, weights, reference, {key: facts[key] for key in keys})
    profile_key = facts["profile_key"] if task.plan is None else task.plan.profile_key
    context.link(weights_sha256=weights, profile_key=profile_key)


def _add_reading_events(context: StageContext, model: ReadModel, facts: dict[str, Any]) -> None:
    """Add events that say what was read, for people."""
    inspected, geometry, fit = model.inputs.inspected, model.geometry, model.fit
    context.event(
        "model.read",
        f"{inspected.model_type}: {geometry.layers} layers, {geometry.total_params:,} parameters;"
        f" calibration on {fit} + {model.measure} windows of {facts['window_tokens']} tokens"
        f"{_short_of(context.job.request.samples, fit)}.",
    )
    if inspected.aside is not None:
        context.event("model.aside", inspected.aside)
    for name, text in model.texts.items():
        context.event(
            "text.read", f"{name}: {_text_summary(text)}", {"text": name, "documents": text.documents}
        )
    if model.shared_windows:
        windows, shared = len(model.judged), len(model.shared_windows)
        counts = {"windows": windows, "shared_windows": shared}
        context.event("evaluation.seen", f"{seen_text(windows, shared)}. {_ANOTHER_TEXT}", counts)


def _text_summary(text: Text) -> str:
    """A summary of a text: ``1,234 conversations through the chat template, 65,536 tokens``."""
    content = text.form if text.form == PLAIN_TEXT else f"{text.documents:,} {text.form}"
    return f"{content}, {text.tokens:,} tokens" + (f" ({text.note})" if text.note else "")


def _short_of(requested: int | None, fit: int) -> str:
    """The remark behind the number of calibration windows where the request asked for more than the text has."""
    if requested is None or requested <= fit:
        return ""
    return f" (of the {requested} asked for, the text has {fit})"


def _around(context: StageContext, weights_sha256: str) -> list[dict[str, int]] | None:
    """The ranks of the plan that the request names in ``around``.

    Raises:
        NotFound: no such plan.
        InvalidInput: the plan is for other weights, or has latents.
    """
    name = context.job.request.around
    if name is None:
        return None
    plan = context.store.plans.get(context.job.team, name)
    if plan.model.weights_sha256 != weights_sha256:
        clause = f"plan {name[:12]} is for {plan.model.reference}, whose weights are not this model's; use"
        raise InvalidInput.of("around", name, "a plan for the same weights", clause)
    if plan.chosen.latents:
        allowed = f"a plan without latents, of solver {DEFAULT_METHOD} for instance"
        raise InvalidInput.of("around", name, allowed, f"plan {name[:12]} has latents; use")
    return [{key: getattr(row, key) for key in ("layer", *COMPONENTS)} for row in plan.ranks]


def _check_budgets(
    context: StageContext, geometry: Geometry, bits: list[int], latents: Mapping[Latent, Sequence[int]]
) -> None:
    """Say how budgets are understood, and refuse what no ranks meet before hours of profiling: that needs no curves."""
    from allocator.plan.program.feasibility import feasibility_program

    request, costs = context.job.request, CostModel(geometry, requested_latency_table(context))
    budgets = parse_budgets(request.budgets)
    understood = [budget.understood(costs) for budget in budgets]
    context.event("budgets.read", "; ".join(understood), {"understood": understood})
    check_feasible(*feasibility_program(costs, budgets, request.limits, bits, latents))
