"""Bodies and answers of the API about teams, tokens, shares and the audit trail."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from allocator.base.access import MEMBER_PATTERN, SUBMIT, TEAM_PATTERN, Scope, ShareKind
from allocator.base.document import Timestamp
from api.schemas.requests import Body, examples

TeamName = Annotated[str, Field(pattern=f"^{TEAM_PATTERN}$", examples=["vision"])]
MemberName = Annotated[str, Field(pattern=f"^{MEMBER_PATTERN}$", examples=["ada"])]
_Ulid = Annotated[str, Field(examples=["01KB0W3E9T5N8X6V2M4C7D1F0G"])]
_Key = Annotated[str, Field(max_length=128, examples=["5f0c1b9e" * 8])]


class TeamIn(Body):
    """A team to make."""

    model_config = examples({"name": "speech"})

    name: TeamName


class TeamOut(BaseModel):
    """A team."""

    name: TeamName
    created_at: Timestamp


class TeamList(BaseModel):
    """Teams by name."""

    items: list[TeamOut]


class RoleIn(Body):
    """A member's role."""

    model_config = examples({"role": "submit"})

    role: Scope = Field(
        description="The widest scope that the member's tokens can have.", examples=["submit"]
    )


class MemberOut(BaseModel):
    """Somebody in a team."""

    name: MemberName
    role: Scope
    created_at: Timestamp


class MemberList(BaseModel):
    """Members by name."""

    items: list[MemberOut]


class TokenIn(Body):
    """A token to make for a member of your team."""

    model_config = examples({"name": "ada", "scope": "submit", "expires": "90d"})

    name: MemberName
    scope: Scope = Field(
        default=SUBMIT,
        description="`admin` contains `submit` contains `read`; at most the member's role.",
    )
    expires: str = Field(
        default="90d",
        max_length=10,
        description="A lifetime in `m`, `h` or `d`, or `never`.",
        examples=["90d", "12h", "never"],
    )


class TokenOut(BaseModel):
    """A token, without its secret."""

    id: _Ulid
    name: MemberName = Field(description="The member who holds it.")
    scope: Scope
    prefix: str = Field(
        description="The secret's first characters, to tell tokens apart.", examples=["ra_x7Qd2L"]
    )
    created_by: str
    created_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    last_used_at: Timestamp | None = Field(description="To the minute.")


class NewTokenOut(TokenOut):
    """A token just made, with its secret."""

    token: str = Field(
        description="The secret. It is shown here and never again.",
        examples=["ra_" + "x7Qd2L" + "." * 37],
    )


class TokenPage(BaseModel):
    """Tokens, newest first."""

    items: list[TokenOut]
    next_cursor: str | None


class WhoAmI(BaseModel):
    """Whom this request speaks for."""

    team: TeamName
    name: MemberName
    scope: Scope
    operator: bool = Field(description="May create teams and manage the members of all of them.")
    token_id: str | None = Field(description="null: no token has been made yet and nobody has to log in.")


class ShareIn(Body):
    """Something of your team's that another team shall see."""

    model_config = examples({"kind": "plan", "key": "5f0c1b9e" * 8, "with_team": "speech"})

    kind: ShareKind
    key: _Key = Field(description="The profile's key or the plan's digest.")
    with_team: TeamName


class ShareOut(BaseModel):
    """A share."""

    id: _Ulid
    team: TeamName = Field(description="Whose the object is.")
    with_team: TeamName = Field(description="Who may see it.")
    kind: ShareKind
    key: _Key
    created_by: str
    created_at: Timestamp
    revoked_at: Timestamp | None = Field(description="When it was undone.")
    revoked_by: str | None


class SharePage(BaseModel):
    """Shares, newest first."""

    items: list[ShareOut]
    next_cursor: str | None


class AuditEntry(BaseModel):
    """An act."""

    id: int
    actor: str = Field(
        description="A member; `team/name` for an operator; `cli:login` for the server's command line.",
        examples=["ada"],
    )
    action: str = Field(examples=["shared"])
    kind: str = Field(description="What kind of object.", examples=["profile"])
    key: str = Field(description="The object's id, key, digest or name.")
    detail: dict[str, Any] = Field(examples=[{"with": "vision"}])
    created_at: Timestamp


class AuditPage(BaseModel):
    """Acts, newest first."""

    items: list[AuditEntry]
    next_cursor: str | None
