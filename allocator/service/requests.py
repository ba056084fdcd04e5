"""What can be said of a request for a job before it is stored, naming the field."""

from __future__ import annotations

from allocator.base.errors import InvalidInput
from allocator.base.references import check_model, text_file
from allocator.base.settings import Settings
from allocator.plan.ask.budgets import check_timed, parse_budgets
from allocator.stages.applying import applied
from allocator.stages.request import Request
from allocator.stages.reuse import checked_profile
from allocator.stages.rules import check_request
from allocator.store import Store

_OF_THE_PLAN = (
    *("budgets", "solver", "allocation", "constraints", "refine"),
    *("latency_table", "bits"),
)
"""What a compression that applies a stored plan takes from the plan."""


def checked_request(store: Store, settings: Settings, team: str, body: Request) -> Request:
    """The request as its job keeps it: plans by their digests, whatever names were sent.

    Raises:
        InvalidInput: a field is wrong, or one that this kind of job does not know.
        NotFound: no such profile or plan.
        Conflict: the model is known not to fit the plan.
    """
    check_model(settings, body.model)
    applying = body.applies is not None
    if body.budgets or (body.allocates and not applying):
        check_timed(parse_budgets(body.budgets), store.latency_tables.table(team, body.latency_table))
    for field in _OF_THE_PLAN if applying else ():
        if value := getattr(body, field):
            allowed = "left out beside plan, which brings its own"
            raise InvalidInput.of(field, str(value)[:200], allowed, "it must be")
    check_request(body)
    names = {"plan": body.plan, "around": body.around}
    digests = {field: store.plans.resolve(team, name) for field, name in names.items() if name is not None}
    request = body.model_copy(update=digests)
    if body.profile is not None:
        checked_profile(store, team, request)
    for field in ("calibration", "evaluation") if body.evaluates else ("calibration",):
        text_file(settings, field, getattr(body, field), body.model)
    return applied(store, team, request) if applying else request
