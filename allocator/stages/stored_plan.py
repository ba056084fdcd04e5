"""Compressions that apply a stored plan instead of solving for one. Imports nothing heavy: the API asks too."""

from __future__ import annotations

from allocator.base.errors import Conflict, NotFound
from allocator.plan.ask.constraints import target_of
from allocator.plan.documents.plan import Plan
from allocator.plan.model.geometry import Geometry
from allocator.stages.exports import check_plan_exports
from allocator.stages.request import Request
from allocator.stages.rules import refuse_beside_bits
from allocator.store import Store


def resolved_request(store: Store, team: str, request: Request) -> Request:
    """A request to apply ``plan`` as the job keeps it: the plan's whole digest, since aliases move, and its budgets.

    Raises:
        NotFound, InvalidInput: no such plan, or several; healing is asked of one with bits, or an export that cannot hold it.
        Conflict: the model is known to have another geometry.
    """
    assert request.plan is not None
    plan = store.plans.get(team, store.plans.resolve(team, request.plan))
    refuse_other_geometry(store, team, plan, request.model)
    if plan.chosen.bits:
        refuse_beside_bits(request, "heal")
    target = target_of(plan.constraints.written)
    check_plan_exports(request.export or (), plan.model.geometry, plan.chosen, target)
    return request.model_copy(update={"plan": plan.digest, "budgets": plan.budget_texts})


def refuse_other_geometry(store: Store, team: str, plan: Plan, reference: str) -> None:
    """Say at once what the job would find, where the model has been read before.

    Raises:
        Conflict: its geometry was another one than the plan's.
    """
    try:
        model = store.models.find_by_reference(team, reference)
    except NotFound:
        return
    _refuse_geometry(plan, Geometry.stored(model["geometry"]), reference)


def check_applicable(plan: Plan, geometry: Geometry, weights_sha256: str, reference: str) -> None:
    """Whether a plan is for exactly this model.

    Raises:
        Conflict: another geometry, or other weights; says what to do then.
    """
    _refuse_geometry(plan, geometry, reference)
    if plan.model.weights_sha256 != weights_sha256:
        raise Conflict(
            f"plan {plan.digest[:12]} is for {plan.model.reference} with weights"
            f" {plan.model.weights_sha256[:12]}, and {reference} has {weights_sha256[:12]}; ask whether it holds for"
            f" this model by POST /v1/plans/{plan.digest[:12]}/transfer or rankalloc transfer, which makes a plan for it"
        )


def _refuse_geometry(plan: Plan, geometry: Geometry, reference: str) -> None:
    planned = plan.model.geometry
    different = [
        f"{name} {getattr(geometry, name)} instead of {getattr(planned, name)}"
        for name in planned.document
        if getattr(geometry, name) != getattr(planned, name)
    ]
    if different:
        raise Conflict(
            f"plan {plan.digest[:12]} is for another geometry than that of {reference}, which has"
            f" {', '.join(different[:4])}; no plan can be used there, profile the model"
        )
