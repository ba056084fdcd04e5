"""The profile and plan that a fine-tune may be compared with. Imports nothing heavy: the API asks too."""

from __future__ import annotations

from typing import Any

from allocator.base.errors import Conflict, InvalidInput
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.identity import identity_of
from allocator.stages.request import Request
from allocator.store import Store


def checked_profile(store: Store, team: str, request: Request) -> tuple[Profile, Plan | None]:
    """The profile and the plan (or None) that a transfer asks about.

    Raises:
        NotFound: no such profile or plan.
        InvalidInput: the plan was not made from the profile; the profile is of curves around a plan, or of quantized cuts.
    """
    assert request.profile is not None
    profile = store.profiles.get(team, request.profile)
    if profile.around is not None:
        allowed, clause = "the profile of the dense model", "its curves are around a plan; name"
        raise InvalidInput.of("profile", request.profile, allowed, clause)
    if profile.bits:
        allowed = "a profile without bits, whose losses a fine-tune's are compared with"
        clause = f"{profile.key[:12]} has quantized cuts, which no probe compares; name"
        raise InvalidInput.of("profile", request.profile, allowed, clause)
    if request.plan is None:
        return profile, None
    plan = store.plans.get(team, request.plan)
    if plan.profile_key != profile.key:
        clause = f"{request.plan[:12]} was not made from profile {profile.key[:12]}; name"
        raise InvalidInput.of("plan", request.plan, "a plan made from the named profile", clause)
    return profile, plan


def check_comparable(profile: Profile, facts: dict[str, Any]) -> None:
    """Whether losses of this model may be compared with the profile's.

    Raises:
        Conflict: another geometry, calibration text, tokenizer or solver; or an earlier version made the profile.
    """
    mine, theirs = facts["identity"]["solution"], identity_of(profile).document["solution"]
    for name, title in (
        ("geometry", "shape"),
        ("tokenizer_sha256", "tokenizer"),
        ("calibration_sha256", "calibration text"),
        ("window_tokens", "window length"),
        ("solver", "solver"),
    ):
        if mine[name] != theirs[name]:
            raise Conflict(
                f"this model cannot be compared with profile {profile.key[:12]}: its {title} is another one"
                f" ({_short(mine[name])} here, {_short(theirs[name])} there)"
            )


def _short(value: Any) -> str:
    return (
        str(value)[:16] if not isinstance(value, dict) else f"{value['layers']} layers of {value['hidden']}"
    )
