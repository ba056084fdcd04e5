"""What can be said of a request for a job before it is stored, naming the field."""

from __future__ import annotations

from typing import Any

from allocator.base.errors import InvalidInput
from allocator.base.references import check_model, text_file
from allocator.base.settings import Settings
from allocator.methods.registry import check_method
from allocator.plan.ask.bits import check_request
from allocator.plan.ask.budgets import check_timed, parse_budgets
from allocator.plan.ask.constraints import target_of
from allocator.plan.effort import check_effort
from allocator.stages.applying import applied, applies
from allocator.stages.exports import check_exports
from allocator.stages.reuse import checked_profile
from allocator.store import Store
from api.schemas import JobRequest

_ONLY_FOR = {
    "profile": ("transfer",),
    "plan": ("transfer", "compress"),
    "heal": ("compress",),
    "refine": ("plan", "compress"),
    "constraints": ("plan", "compress"),
    "latency_table": ("plan", "compress"),
    "around": ("profile", "plan"),
    "bits": ("profile", "plan", "compress"),
    "samples": ("profile", "plan", "compress"),
    "sequence_length": ("profile", "plan", "compress"),
    "evaluation_length": ("compress",),
    "baselines": ("compress",),
}
"""Field -> the kinds of jobs that know what to do with it."""

_OF_THE_PLAN = (
    *("budgets", "solver", "allocation", "constraints", "refine"),
    *("latency_table", "bits"),
)
"""What a compression that applies a stored plan takes from the plan."""


def checked_request(store: Store, settings: Settings, team: str, body: JobRequest) -> dict[str, Any]:
    """The request as its job keeps it: plans by their digests, whatever names were sent.

    Raises:
        InvalidInput: a field is wrong, or one that this kind of job does not know.
        NotFound: no such profile or plan.
        Conflict: the model is known not to fit the plan.
    """
    request = body.model_dump(exclude={"kind"}, exclude_none=True)
    check_model(settings, body.model)
    applying = applies(body.kind, request)
    if body.budgets or (body.kind in ("plan", "compress") and not applying):
        check_timed(parse_budgets(body.budgets), store.latency_tables.table(team, body.latency_table))
    _check_fields(body, applying=applying)
    check_request(body.kind, request)
    check_effort(request)
    check_method(request)
    for name in ("plan", "around"):
        if name in request:
            request[name] = store.plans.resolve(team, request[name])
    if body.profile is not None:
        checked_profile(store, team, request)
    _check_texts(settings, body)
    if body.export and not applying:
        check_exports(body.export, target_of(request.get("constraints")))
    return applied(store, team, request) if applying else request


def _check_fields(body: JobRequest, *, applying: bool) -> None:
    for field, kinds in _ONLY_FOR.items():
        if getattr(body, field) is not None and body.kind not in kinds:
            allowed = f"for jobs of kind {' or '.join(kinds)} only"
            said = f"a job of kind {body.kind} takes none; it is"
            raise InvalidInput.of(field, str(getattr(body, field))[:200], allowed, said)
    for field in _OF_THE_PLAN if applying else ():
        if getattr(body, field):
            allowed = "left out beside plan, which brings its own"
            raise InvalidInput.of(field, str(getattr(body, field))[:200], allowed, "it must be")
    if body.kind == "transfer" and body.profile is None:
        allowed = "the key of a stored profile (GET /v1/profiles lists them)"
        raise InvalidInput.of("profile", "nothing", allowed, "a job of kind transfer needs")


def _check_texts(settings: Settings, body: JobRequest) -> None:
    texts = {"calibration": body.calibration}
    if body.kind == "compress":
        texts["evaluation"] = body.evaluation
    for field, reference in texts.items():
        text_file(settings, field, reference, body.model)
