"""Plans that come as files: what somebody else's JSON must be before it is used as a plan."""

from __future__ import annotations

import json
from collections.abc import Sequence

from allocator.base.errors import InvalidInput
from allocator.plan.ask.constraints import target_of
from allocator.plan.documents.plan import PLAN_SCHEMA, Baseline, Plan
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.dtypes import WIDTHS
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.latency import check_steps
from allocator.plan.model.layer import PlannedLayer
from allocator.plan.model.precision import LATENTS, admissible_ranks
from allocator.plan.targets.held import misfit

MAX_PLAN_BYTES = 8 << 20
_REFUSED = "the plan file cannot be used"


def read_plan(data: bytes) -> Plan:
    """The plan in ``data`` (``plan.json``, what ``rankalloc plan --out`` wrote, or what it prints with ``--json``, where an
    explanation may stand beside the plan).

    Its digest must be that of its content, every rank one that the geometry allows, and its costs those of its ranks. What
    is neither named by the digest nor counted again (predicted losses, certificate) is the author's word.

    Raises:
        InvalidInput: it is not a plan, or was changed after it was made.
    """
    if len(data) > MAX_PLAN_BYTES:
        raise _bad("it is too large", f"at most {MAX_PLAN_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _bad("it is not JSON", "a plan.json") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != PLAN_SCHEMA:
        raise _bad(f"its schema is {str(schema)[:60]!r}", f"a plan of schema {PLAN_SCHEMA}")
    plan = Plan.read({name: value for name, value in document.items() if name != "explanation"}, _REFUSED)
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    if plan.own_digest != plan.digest:
        raise _bad("its content is not what its digest names", "a plan as it was written")
    if plan.latency_table is not None:
        check_steps(plan.latency_table)
    costs = CostModel(plan.model.geometry, target=target_of(plan.constraints.written))
    entries: list[Plan | Baseline] = [plan, *plan.baseline.values()]
    for entry in entries:
        _check_ranks(costs.geometry, entry.ranks)
        if (fault := misfit(costs.target, costs.geometry, entry.chosen)) is not None:
            raise _bad(fault, f"ranks that its target {costs.target.name} holds")
        if entry.costs != costs.summary(entry.chosen):
            raise _bad("its costs are not those of its ranks", "a plan as it was written")


def _check_ranks(geometry: Geometry, rows: Sequence[PlannedLayer]) -> None:
    admissible = {(c, bits): set(admissible_ranks(geometry, c, bits)) for c in COMPONENTS for bits in WIDTHS}
    allowed = {component: set(geometry.candidate_ranks(component)) for component in COMPONENTS}
    if [row.layer for row in rows] != list(range(geometry.layers)):
        raise _bad("its layers are not those of its geometry", f"layers 0 to {geometry.layers - 1} in order")
    for row in rows:
        ranks = {component: getattr(row, component) for component in COMPONENTS}
        of_latents = {LATENTS[form] for form in row.latents}
        for component, rank in ranks.items():
            if component not in of_latents and rank not in allowed[component]:
                raise _bad(f"layer {row.layer} {component} has rank {rank}", "ranks that the geometry has")
        for form in row.latents:
            component = LATENTS[form]
            if ranks[component] not in geometry.latent_ranks(form):
                shown = ", ".join(map(str, geometry.latent_ranks(form))) or "none"
                raise _bad(
                    f"layer {row.layer} {component} has rank {ranks[component]} in the form {form!r}",
                    f"{form}, at one of the ranks {shown}",
                )
            if component in row.bits:
                raise _bad(f"layer {row.layer} {component} is {form} and in bits", "one of the two")
        for component, bits in row.bits.items():
            if ranks[component] not in admissible[component, bits]:
                raise _bad(
                    f"layer {row.layer} {component} has rank {ranks[component]} in {bits} bits",
                    "bits that the component can be held in at that rank",
                )


def _bad(what: str, allowed: str) -> InvalidInput:
    return InvalidInput.of("plan", what, allowed, f"{what}; allowed:", at=_REFUSED)
