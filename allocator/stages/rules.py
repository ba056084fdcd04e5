"""Rules of which fields of a request go together. Imports nothing heavy: commands and the API ask before a job is stored."""

from __future__ import annotations

from typing import Any

from allocator.base.errors import InvalidInput
from allocator.base.kinds import COMPRESS, PLAN, PROFILE, TRANSFER
from allocator.methods.registry import METHODS
from allocator.plan.ask.constraints import target_of
from allocator.plan.effort import EFFORTS, GRADIENT
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.precision import checked_bits
from allocator.stages.exports import check_exports
from allocator.stages.request import Request

ONLY_FOR = {
    "profile": (TRANSFER,),
    "plan": (TRANSFER, COMPRESS),
    "heal": (COMPRESS,),
    "refine": (PLAN, COMPRESS),
    "constraints": (PLAN, COMPRESS),
    "latency_table": (PLAN, COMPRESS),
    "around": (PROFILE, PLAN),
    "bits": (PROFILE, PLAN, COMPRESS),
    "samples": (PROFILE, PLAN, COMPRESS),
    "sequence_length": (PROFILE, PLAN, COMPRESS),
    "evaluation_length": (COMPRESS,),
    "baselines": (COMPRESS,),
}
"""Field -> the kinds of jobs that know what to do with it."""

_BESIDE_BITS = {
    "refine": "0, or left out: refinement moves ranks and not bits",
    "heal": "0, or left out: healing trains weights as if none were rounded",
    "around": "left out: quantized cuts are measured around the dense model",
}
"""Field -> what it may be beside bits."""


def check_request(request: Request) -> None:
    """Raises InvalidInput for a field that this kind of job does not know, or that does not go with another one."""
    _check_kind(request)
    if request.bits:
        _check_bits(request)
    _check_effort(request)
    _check_method(request)
    if request.export and request.applies is None:
        check_exports(request.export, target_of(request.limits))


def _check_kind(request: Request) -> None:
    for field, kinds in ONLY_FOR.items():
        if (value := getattr(request, field)) is not None and request.kind not in kinds:
            allowed = f"for jobs of kind {' or '.join(kinds)} only"
            clause = f"a job of kind {request.kind} takes none; it is"
            raise InvalidInput.of(field, _shown(value), allowed, clause)
    if request.kind == TRANSFER and request.profile is None:
        allowed = "the key of a stored profile (GET /v1/profiles lists them)"
        raise InvalidInput.of("profile", "nothing", allowed, "a job of kind transfer needs")


def _check_effort(request: Request) -> None:
    """Gradients predict losses around the dense model in its own type."""
    name = request.effort or ""
    if name in EFFORTS and EFFORTS[name].uses_gradients and (request.bits or request.around):
        *others, last = (other for other, effort in EFFORTS.items() if not effort.uses_gradients)
        allowed = f"{', '.join(others)} or {last}"
        said = f"{name!r} predicts losses around the dense model in its own type; with bits, or around a plan, use"
        raise InvalidInput.of("effort", name, allowed, said)


def _check_bits(request: Request) -> None:
    checked_bits(request.bits or ())
    refuse_beside_bits(request, *_BESIDE_BITS)
    counting = [name for name, metric in METRICS.items() if metric.counts_bits]
    budgets = {text.strip().partition("=")[0] for text in request.budgets}
    if request.allocates and not budgets & set(counting):
        text = ",".join(map(str, request.bits or ()))
        allowed = f"beside a budget on {' or '.join(counting)}, as in 'memory=0.6@context=4096': no other counts bits"
        raise InvalidInput.of("bits", text, allowed, f"{text} works only")


def refuse_beside_bits(request: Request, *fields: str) -> None:
    """Raises InvalidInput for the first of the fields that is given, since weights are to be rounded."""
    for field in fields:
        if value := getattr(request, field):
            text = _shown(value)
            raise InvalidInput.of(field, text, _BESIDE_BITS[field], f"{text}; with bits it must be")


def _check_method(request: Request) -> None:
    """Latents are predicted from gradients, around the dense model in its own type."""
    name = request.method
    if name not in METHODS or not METHODS[name].latents:
        return
    for field, permitted in (("effort", GRADIENT), ("bits", None), ("around", None)):
        if (value := getattr(request, field)) and value != permitted:
            allowed = f"{permitted}, or left out" if permitted is not None else "left out"
            text = _shown(value)
            clause = f"{text} does not go with solver {name}; with it, it must be"
            raise InvalidInput.of(field, text, allowed, clause)


def _shown(value: Any) -> str:
    return str(value)[:200]
