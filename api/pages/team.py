"""The team: who is in it, its tokens, what it shares, what was done; and the page that takes a token."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers

from allocator.base.access import ADMIN, SCOPES, SUBMIT
from api.pages import forms
from api.routes import audit, teams, tokens
from api.schemas.teams import RoleIn, ShareIn, TokenIn
from api.web.addresses import address, prefix
from api.web.authentication import COOKIE
from api.web.problems import invalid_fields
from api.web.render import page
from api.web.services import AdminDep, Caller, CallerDep, Services, ServicesDep, SubmitTeamDep

router = APIRouter(include_in_schema=False)

_MOST_ROWS = 50
_HERE = "/team"
Body = TypeVar("Body", bound=BaseModel)
_NEVER_STORED = {"Cache-Control": "no-store"}


@router.get("/login", response_class=HTMLResponse)
def login_page(services: ServicesDep, next: Annotated[str, Query(max_length=2000)] = "/") -> HTMLResponse:
    """The form for a token."""
    return _login(services, next)


def _login(services: Services, goal: str, wrong: str = "", status: int = 200) -> HTMLResponse:
    needed = services.authenticator.tokens_needed
    return page(
        "login.html", status=status, headers=_NEVER_STORED, needed=needed, goal=_own(goal), wrong=wrong
    )


@router.post("/login", response_class=HTMLResponse)
def login(form: forms.FormDep, request: Request, services: ServicesDep) -> Response:
    """Keep the token in a cookie that no script can read and no other site's page sends."""
    secret, goal = forms.only(form, "token"), _own(forms.only(form, "next"))
    bearer = Headers({"authorization": f"Bearer {secret}"})
    if (
        not secret.isascii()
        or not secret.isprintable()
        or services.authenticator.caller("GET", bearer) is None
    ):
        wrong = "This is not a token of this service, or it was revoked, or it has expired."
        return _login(services, goal, wrong, 401)
    answer = RedirectResponse(address(goal), status_code=303, headers=_NEVER_STORED)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, secret, path=prefix() or "/", httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout")
def logout() -> RedirectResponse:
    """Forget the cookie; the token itself stays as it is."""
    answer = RedirectResponse(address("/login"), status_code=303, headers=_NEVER_STORED)
    answer.delete_cookie(COOKIE, path=prefix() or "/", httponly=True, samesite="strict")
    return answer


def _own(goal: str) -> str:
    """A path of this service; anything else leads to the first page."""
    parts = urlsplit(goal)
    foreign = parts.scheme or parts.netloc or not goal.startswith("/") or goal.startswith(("//", "/\\"))
    return "/" if foreign or not goal.isprintable() else goal


@router.get("/team", response_class=HTMLResponse)
def team_page(services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The team as the caller may see it."""
    return _team(services, caller)


def _team(services: Services, caller: Caller, new_token: dict[str, Any] | None = None) -> HTMLResponse:
    admin = caller.may(ADMIN)
    first_page: dict[str, Any] = {"limit": _MOST_ROWS, "cursor": None}
    return page(
        "team.html",
        headers=_NEVER_STORED if new_token else None,
        me=tokens.whoami(caller),
        may_submit=caller.may(SUBMIT),
        admin=admin,
        scopes=SCOPES,
        usual_scope=SUBMIT,
        members=teams.list_members(caller.team, services, caller)["items"],
        tokens=tokens.list_tokens(services, caller, **first_page)["items"],
        shares=services.team(caller).shares.page(limit=_MOST_ROWS).items,
        entries=audit.list_audit(services, caller, **first_page)["items"] if admin else [],
        new_token=new_token,
    )


def _read(model: type[Body], form: forms.Form, *names: str) -> Body:
    """The fields of a form as a route's body. Raises InvalidInput."""
    fields = {name: forms.only(form, name) for name in names if forms.only(form, name)}
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from None


def _back(goal: str = _HERE) -> RedirectResponse:
    return RedirectResponse(address(goal), status_code=303)


@router.post("/team/tokens", response_class=HTMLResponse)
def make_token(form: forms.FormDep, services: ServicesDep, caller: AdminDep) -> HTMLResponse:
    """A new token, whose secret this one answer shows."""
    body = _read(TokenIn, form, "name", "scope", "expires")
    return _team(services, caller, tokens.create_token(body, services, caller, Response()))


@router.post("/team/tokens/{token_id}/revoke")
def revoke_token(token_id: str, services: ServicesDep, caller: CallerDep) -> RedirectResponse:
    """End a token."""
    tokens.revoke_token(token_id, services, caller)
    return _back()


@router.post("/team/members")
def put_member(form: forms.FormDep, services: ServicesDep, caller: AdminDep) -> RedirectResponse:
    """A member, or another role for one."""
    name, body = forms.only(form, "name"), _read(RoleIn, form, "role")
    teams.put_member(caller.team, name, body, services, caller, Response())
    return _back()


@router.post("/team/members/{member}/remove")
def remove_member(member: str, services: ServicesDep, caller: AdminDep) -> RedirectResponse:
    """Out of the team, with all tokens."""
    teams.remove_member(caller.team, member, services, caller)
    return _back()


@router.post("/team/shares")
def share(form: forms.FormDep, team: SubmitTeamDep) -> RedirectResponse:
    """Let another team see something, and show what the form was beside."""
    body = _read(ShareIn, form, "kind", "key", "with_team")
    team.shares.add(body.kind, body.key, with_team=body.with_team)
    return _back(_own(forms.only(form, "next") or _HERE))


@router.post("/team/shares/{share_id}/undo")
def undo_share(share_id: str, team: SubmitTeamDep) -> RedirectResponse:
    """Take it back."""
    team.shares.undo(share_id)
    return _back()
