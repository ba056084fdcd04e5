"""Bodies and answers of the API about aliases of plans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from allocator.base.document import Timestamp
from allocator.store.aliases import NAME_PATTERN
from api.schemas.requests import Body, examples

_DIGEST = "9f2c4e" + 58 * "0"
PlanName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="A digest, its first characters (at least 6) or `alias:<name>`.",
        examples=["alias:prod"],
    ),
]


class AliasTarget(Body):
    """The plan that an alias shall point at."""

    model_config = examples({"plan": _DIGEST}, {"plan": "9f2c4e00"})

    plan: PlanName


class RollBack(Body):
    """The version that an alias shall go back to."""

    model_config = examples({}, {"version": 3})

    version: Annotated[int, Field(ge=1, le=2**62)] | None = Field(
        default=None, description="One of its history; default: what it pointed at before.", examples=[3]
    )


class AliasOut(BaseModel):
    """A name for a plan, which people move."""

    name: str = Field(pattern=NAME_PATTERN, examples=["prod"])
    digest: str = Field(description="The plan it points at.", examples=[_DIGEST])
    version: int = Field(description="Grows with every change; in quotes it is the ETag.", examples=[3])
    changed_by: str
    changed_at: Timestamp


class AliasPage(BaseModel):
    """Aliases, newest name first."""

    items: list[AliasOut]
    next_cursor: str | None


class AliasChange(BaseModel):
    """One change of an alias."""

    version: int
    action: Literal["set", "rollback", "delete"]
    from_digest: str | None = Field(description="null: it did not exist before.")
    to_digest: str | None = Field(description="null: it was deleted.")
    changed_by: str
    changed_at: Timestamp


class AliasHistory(BaseModel):
    """All changes of an alias, newest first; it stays when the alias is deleted."""

    items: list[AliasChange]
    next_cursor: str | None
