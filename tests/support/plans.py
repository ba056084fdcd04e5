"""Plans for tests: whole ones under any name, files, ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from pydantic import ValidationError

from allocator.plan.documents.plan import Plan
from allocator.plan.model.layer import PlannedLayer
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from tests.support.profiles import small_profile


@cache
def _solved() -> Plan:
    return plan_from_profile(small_profile(), ["block_params=0.8"])


def plan_named(
    digest: str,
    *,
    profile_key: str = "p",
    loss_nats: float = 0.125,
    limits: Mapping[str, int] | None = None,
    refined_from: str | None = None,
    transferred_from: str | None = None,
) -> Plan:
    """A plan for ``local:m``, of which what a store looks at is as told.

    Args:
        limits: metric -> limit of its budget; default: 1000 parameters.
    """
    plan = _solved()
    found = plan.replaced(
        digest=digest,
        profile_key=profile_key,
        model=plan.model.replaced(reference="local:m"),
        predicted={"loss_nats": loss_nats},
        budgets=tuple(
            plan.budgets[0].replaced(metric=metric, limit=limit)
            for metric, limit in (limits or {"params": 1000}).items()
        ),
    )
    if refined_from is not None:
        nats = dict.fromkeys(("additivity_error", "predicted_nats", "start_nats", "final_nats"), 0.1)
        start = {
            "digest": refined_from,
            "ranks": plan.ranks,
            "predicted": plan.predicted,
            "certificate": None,
        }
        found = found.replaced(
            refinement={"evaluations": 3, **nats, "stopped": "evaluations", "steps": [], "start": start}
        )
    if transferred_from is not None:
        former = {"reference": "local:other", "weights_sha256": "e" * 64}
        found = found.replaced(transfer={"plan": transferred_from, "model": former, "median_factor": 1.1})
    return found


def ranks_of(rows: Sequence[Mapping[str, Any]]) -> Ranks:
    """Of rows as JSON has them."""
    return Ranks.from_layers([PlannedLayer.read(dict(row)) for row in rows])


def plan_file(document: dict[str, Any]) -> bytes:
    """A plan as a file, under the digest of what it says where that can be read at all."""
    with suppress(ValidationError):
        document = {**document, "digest": Plan.stored(document).own_digest}
    return json.dumps(document).encode()
