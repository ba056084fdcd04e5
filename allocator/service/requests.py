"""Checks of a request for a job before it is stored; errors name the field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from allocator.base.errors import FieldError, InvalidInput, NotFound
from allocator.base.references import check_model, text_file
from allocator.base.settings import Settings
from allocator.plan.ask.budgets import check_timed, parse_budgets
from allocator.stages.request import Request
from allocator.stages.reuse import checked_profile
from allocator.stages.rules import check_request
from allocator.stages.stored_plan import resolved_request
from allocator.store import Store

_OF_THE_PLAN = (
    *("budgets", "solver", "allocation", "constraints", "refine"),
    *("latency_table", "bits"),
)
"""The fields that a compression takes from the stored plan that it applies."""


def checked_request(store: Store, settings: Settings, team: str, body: Request) -> Request:
    """The request as its job keeps it: plans by their digests, whatever names were sent.

    Raises:
        InvalidInput: a field is wrong, or one that this kind of job does not know.
        NotFound: no such profile, plan or latency table; it names the field too.
        Conflict: the model is known not to fit the plan.
    """
    check_model(settings, body.model)
    applying = body.applies is not None
    if body.budgets or (body.allocates and not applying):
        with _naming("latency_table", body.latency_table, "the key of a stored latency table"):
            table = store.latency_tables.table(team, body.latency_table)
        check_timed(parse_budgets(body.budgets), table)
    for field in _OF_THE_PLAN if applying else ():
        if value := getattr(body, field):
            allowed = "left out beside plan, which brings its own"
            raise InvalidInput.of(field, str(value)[:200], allowed, "it must be")
    check_request(body)
    digests = {}
    for field, name in (("plan", body.plan), ("around", body.around)):
        with _naming(field, name, "a stored plan's digest, its beginning or alias:<name>"):
            if name is not None:
                digests[field] = store.plans.resolve(team, name)
    request = body.model_copy(update=digests)
    with _naming("profile", body.profile, "the key of a stored profile"):
        if body.profile is not None:
            checked_profile(store, team, request)
    for field in ("calibration", "evaluation") if body.evaluates else ("calibration",):
        text_file(settings, field, getattr(body, field), body.model)
    return resolved_request(store, team, request) if applying else request


@contextmanager
def _naming(field: str, name: str | None, allowed: str) -> Iterator[None]:
    """What is not found within is what the field names: the NotFound says so."""
    try:
        yield
    except NotFound as error:
        raise NotFound(error.detail, fields=[FieldError(field, str(name)[:200], allowed)]) from error
