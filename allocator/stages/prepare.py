"""Read the model and the texts, hash them, name the profile: everything that may be wrong is found here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allocator.base.errors import FieldError, InvalidInput
from allocator.base.settings import Settings
from allocator.methods.registry import DEFAULT_METHOD, method_of
from allocator.plan.ask.bits import check_request, refuse_healing
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.effort import (
    EFFORTS,
    check_effort,
    default_effort,
    evaluated,
    identity,
)
from allocator.plan.model.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import INSTALL, checked_bits
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.solve import check_feasible
from allocator.profiling.cost import cost
from allocator.report.document import seen_text
from allocator.stages import at_hand
from allocator.stages.applying import check_applicable
from allocator.stages.inputs import (
    applied_plan,
    preflight,
    set_up_torch,
    shown_reference,
    solver_errors,
    stored_table,
)
from allocator.stages.pipeline import SEQUENCES, ItemSpec, JobView, StageContext
from allocator.stages.reuse import check_comparable, checked_profile, effort_of
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.text import Text

PLAIN = "plain text"
_ANOTHER_TEXT = "Rise and perplexity say too little of other texts; name another one as evaluation"


class Prepare:
    """One item."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("inputs")]

    def run(self, context: StageContext) -> dict[str, Any]:
        from solvers import reading
        from solvers.families import FAMILIES
        from solvers.overlap import shared_windows
        from solvers.text import tokenizer_sha256

        set_up_torch(context.settings)
        request, settings = context.job.request, context.settings
        solver, profile = request.get("solver") or DEFAULT_METHOD, None
        plan = applied_plan(context)
        if plan is not None:  # its ranks were chosen on this solver's curves
            solver = plan["solver"]
        bits = _checked_bits(context, plan)
        if context.job.kind == "transfer":  # compared with a profile, so measured like it
            profile, _ = checked_profile(context.store, context.job.team, request)
            solver = profile["solver"]
        method = method_of(solver)
        check_effort(request)
        effort = (
            EFFORTS[request.get("effort") or default_effort(request)]
            if profile is None
            else effort_of(profile)
        )
        inputs = preflight(settings, request, kind=context.job.kind, profile=profile)
        inspected, calibration, evaluation = inputs.inspected, inputs.calibration, inputs.evaluation
        window_tokens = inputs.windows.calibration_tokens
        if profile is None:
            effort = effort.of_length(window_tokens)
        with solver_errors():
            dtype = reading.storage_dtype(inspected)
            model = reading.load(inspected, dtype=None)
        geometry = Geometry(
            **FAMILIES[inspected.model_type].geometry(model.config),
            total_params=sum(parameter.numel() for parameter in model.parameters()),
            bytes_per_param=dtype.itemsize,
        )
        weights, tokenizer = at_hand.weights_sha256(inspected), tokenizer_sha256(inspected.folder)
        reference = shown_reference(request["model"])
        if plan is not None:
            check_applicable(plan, geometry, weights, reference)
        fit, measure = (
            len(calibration.fit(inputs.windows.samples)),
            len(calibration.measure(effort.judged_windows)),
        )
        named = identity(
            weights_sha256=weights,
            config_sha256=inspected.config_sha256,
            tokenizer_sha256=tokenizer,
            geometry=geometry,
            calibration_sha256=calibration.sha256,
            window_tokens=window_tokens,
            prefix=list(calibration.prefix),
            fit_windows=fit,
            solver_version=method.version,
            effort=effort,
            around=_around(context, weights),
            bits=bits,
        )
        if plan is None and "allocate" in SEQUENCES[context.job.kind]:
            costs = CostModel(geometry, stored_table(context))
            understood = [budget.understood(costs) for budget in parse_budgets(request["budgets"])]
            context.event("budgets.read", "; ".join(understood), {"understood": understood})
            _refuse_infeasible(costs, request["budgets"], request.get("constraints"), bits)
        stated = cost(named, geometry, measure, calibrated=method.calibrated)
        texts = {"calibration": calibration, **({} if evaluation is None else {"evaluation": evaluation})}
        judged: Any = [] if evaluation is None else evaluated(evaluation.windows)
        seen = [] if evaluation is None else shared_windows(judged, len(evaluation.prefix), calibration)
        facts = {
            "reference": reference,
            "weights_sha256": weights,
            "geometry": geometry.document(),
            "storage_dtype": str(dtype).removeprefix("torch."),
            "solver": solver,
            "window_tokens": window_tokens,
            "calibration": {
                "sha256": calibration.sha256,
                "tokens": calibration.tokens,
                "fit_windows": fit,
                "measure_windows": measure,
            },
            "evaluation": evaluation
            and {
                "sha256": evaluation.sha256,
                "tokens": evaluation.tokens,
                "window_tokens": inputs.windows.evaluation_tokens,
                "windows": len(judged),
                "shared_windows": seen,
            },
            "read": {name: {"documents": text.documents, "form": text.form} for name, text in texts.items()},
            "identity": named.document,
            "profile_key": named.profile_key,
            "cost": stated.document(),
            "first_windows": min(effort.first_windows, measure),
        }
        if profile is not None:
            check_comparable(profile, facts)
        context.store.models.put(
            context.job.team,
            weights,
            reference,
            {key: facts[key] for key in ("reference", "weights_sha256", "geometry", "storage_dtype")},
        )
        profile_key = named.profile_key if plan is None else plan["profile_key"]
        context.link(weights_sha256=weights, profile_key=profile_key)
        context.event(
            "model.read",
            f"{inspected.model_type}: {geometry.layers} layers, {geometry.total_params:,} parameters;"
            f" calibration on {fit} + {measure} windows of {window_tokens} tokens{_short_of(request, fit)}.",
        )
        if inspected.aside is not None:
            context.event("model.aside", inspected.aside)
        for name, text in texts.items():
            context.event("text.read", f"{name}: {_told(text)}", {"text": name, "documents": text.documents})
        if seen:
            found = {"windows": len(judged), "shared_windows": len(seen)}
            context.event("evaluation.seen", f"{seen_text(found)}. {_ANOTHER_TEXT}", found)
        known = context.store.profiles.exists(context.job.team, named.profile_key)
        if profile is None and plan is None and not known:
            context.event("profile.cost", f"profile to make: {stated.sentence()}", stated.document())
        return facts


def _told(text: Text) -> str:
    """What was read as a text: ``1,234 conversations through the chat template, 65,536 tokens``."""
    what = text.form if text.form == PLAIN else f"{text.documents:,} {text.form}"
    return f"{what}, {text.tokens:,} tokens" + (f" ({text.note})" if text.note else "")


def _short_of(request: dict[str, Any], fit: int) -> str:
    """What follows the number of calibration windows where the request asked for more than the text has."""
    asked = request.get("samples")
    return f" (of the {asked} asked for, the text has {fit})" if asked is not None and fit < asked else ""


def _checked_bits(context: StageContext, plan: dict[str, Any] | None) -> list[int]:
    """The bits of the quantized cuts to measure; none where a plan is applied, whose own only have to be written.

    Raises:
        InvalidInput: bits that there are not, or beside what does not go with them; or this worker has no torchao.
    """
    request = context.job.request
    check_request(context.job.kind, request)
    bits = checked_bits(request.get("bits") or ())
    if bits or (plan is not None and Ranks.from_layers(plan["ranks"]).bits):
        from solvers.quantization import installed

        if plan is not None:
            refuse_healing(request)
        if not installed():
            said = "this worker has no torchao, which rounds the weights;"
            raise InvalidInput.of("bits", "no torchao", INSTALL, said)
    return bits


def _around(context: StageContext, weights_sha256: str) -> list[dict[str, int]] | None:
    """The ranks of the plan that the request names in ``around``.

    Raises:
        NotFound: no such plan.
        InvalidInput: the plan is for other weights.
    """
    name = context.job.request.get("around")
    if name is None:
        return None
    plan = context.store.plans.get(context.job.team, name)
    if plan["model"]["weights_sha256"] != weights_sha256:
        allowed = "a plan for the same weights"
        raise InvalidInput(
            f"around: plan {name[:12]} is for {plan['model']['reference']}, whose weights are not this model's",
            fields=[FieldError("around", name, allowed)],
        )
    return [{key: row[key] for key in ("layer", *COMPONENTS)} for row in plan["ranks"]]


def _refuse_infeasible(
    costs: CostModel, budgets: list[str], constraints: dict[str, list[str]] | None, bits: list[int]
) -> None:
    """Say so before hours of profiling: feasibility needs no curves."""
    from allocator.plan.program.problem import feasibility_program

    check_feasible(*feasibility_program(costs, parse_budgets(budgets), constraints, bits))
