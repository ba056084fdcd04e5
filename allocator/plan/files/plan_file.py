"""Plans that come as files: what somebody else's JSON must be before it is used as a plan."""

from __future__ import annotations

import json
import math
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.plan.ask.constraints import target_of
from allocator.plan.model.costs import CostModel
from allocator.plan.model.dtypes import WIDTHS
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.latency import check_part
from allocator.plan.model.precision import LATENTS, admissible_ranks
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import PLAN_SCHEMA, plan_digest
from allocator.plan.targets.held import misfit

MAX_PLAN_BYTES = 8 << 20


def read_plan(data: bytes) -> dict[str, Any]:
    """The plan document in ``data`` (``plan.json``, or what ``rankalloc plan --out`` wrote).

    Its digest must be that of its content, every rank one that the geometry allows, and its costs those of its ranks. What
    is neither named by the digest nor counted again (predicted losses, certificate) is the author's word.

    Raises:
        InvalidInput: it is not a plan, or was changed after it was made.
    """
    if len(data) > MAX_PLAN_BYTES:
        raise _bad("it is too large", f"at most {MAX_PLAN_BYTES} bytes")
    try:
        plan = json.loads(data)
    except (ValueError, RecursionError):
        raise _bad("it is not JSON", "a plan.json") from None
    if not isinstance(plan, dict) or plan.get("schema") != PLAN_SCHEMA:
        found = plan.get("schema") if isinstance(plan, dict) else None
        raise _bad(f"its schema is {str(found)[:60]!r}", f"a plan of schema {PLAN_SCHEMA}")
    try:
        _check(plan)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _bad(
            f"it lacks or misspells something ({type(error).__name__}: {error})", "a whole plan"
        ) from None
    return plan


def _check(plan: dict[str, Any]) -> None:
    if plan_digest(plan) != plan["digest"]:
        raise _bad("its content is not what its digest names", "a plan as it was written")
    geometry = Geometry.stored(plan["model"]["geometry"])
    loss, reference = plan["predicted"]["loss_nats"], plan["model"]["reference"]
    if not isinstance(loss, int | float) or not math.isfinite(loss) or not isinstance(reference, str):
        raise _bad("its predicted loss or model is unreadable", "a number and a name")
    if not isinstance(plan["profile_key"], str) or not isinstance(plan["solver"], str):
        raise _bad("its profile or solver is unreadable", "text")
    for budget in plan["budgets"]:
        if not isinstance(budget["text"], str) or {type(budget[name]) for name in ("limit", "used")} != {int}:
            raise _bad("a budget is unreadable", "budgets with text, a whole limit and a whole use")
    if plan.get("latency_table") is not None:
        check_part(plan["latency_table"])
    if any(type(each) is not int or each not in WIDTHS for each in plan.get("bits", ())):
        raise _bad("its bits are unreadable", "8 and 4")
    for form in LATENTS:
        if plan.get(form, True) is not True:
            raise _bad(f"its {form} is unreadable", "true, or nothing")
    costs = CostModel(geometry, target=target_of(plan["constraints"]))
    for entry in (plan, *plan["baseline"].values()):
        _check_ranks(geometry, entry["ranks"])
        ranks = Ranks.from_layers(entry["ranks"])
        if (fault := misfit(costs.target, geometry, ranks)) is not None:
            raise _bad(fault, f"ranks that its target {costs.target.name} holds")
        if entry["costs"] != costs.summary(ranks):
            raise _bad("its costs are not those of its ranks", "a plan as it was written")


def _check_ranks(geometry: Geometry, rows: list[dict[str, Any]]) -> None:
    admissible = {(c, bits): set(admissible_ranks(geometry, c, bits)) for c in COMPONENTS for bits in WIDTHS}
    allowed = {component: set(geometry.candidate_ranks(component)) for component in COMPONENTS}
    if [row["layer"] for row in rows] != list(range(geometry.layers)):
        raise _bad("its layers are not those of its geometry", f"layers 0 to {geometry.layers - 1} in order")
    for row in rows:
        for component in COMPONENTS:
            if type(row[component]) is not int or row[component] not in allowed[component]:
                raise _bad(
                    f"layer {row['layer']} {component} has rank {str(row[component])[:20]}",
                    "ranks that the geometry has",
                )
        for form, component in LATENTS.items():
            held, place = row.get(f"{component}_form"), f"layer {row['layer']} {component}"
            if held is None:
                continue
            if held != form or row[component] not in geometry.latent_ranks(form):
                ranks = ", ".join(map(str, geometry.latent_ranks(form))) or "none"
                raise _bad(
                    f"{place} has rank {row[component]} in the form {str(held)[:20]!r}",
                    f"{form}, at one of the ranks {ranks}",
                )
            if component in row.get("bits", {}):
                raise _bad(f"{place} is {form} and in bits", "one of the two")
        for component, bits in row.get("bits", {}).items():
            if type(bits) is not int or row[component] not in admissible[component, bits]:
                raise _bad(
                    f"layer {row['layer']} {component} has rank {row[component]} in {str(bits)[:20]} bits",
                    "bits that the component can be held in at that rank",
                )


def _bad(what: str, allowed: str) -> InvalidInput:
    return InvalidInput.of("plan", what, allowed, f"{what}; allowed:", at="the plan file cannot be used")
