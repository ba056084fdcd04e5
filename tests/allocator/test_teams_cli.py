"""``rankalloc teams`` and ``tokens``: administration on the server's own database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from allocator.base.settings import Settings
from allocator.store import Store
from api.cli import demo
from tests.support.teams import token

Run = Callable[..., tuple[int, str, str]]


def test_a_token_is_printed_once_and_works(run: Run, store: Store) -> None:
    code, out, err = run("tokens", "create", "--team", "red", "--name", "ada", "--scope", "admin")
    assert code == 0
    secret = out.strip()
    assert re.fullmatch(r"ra_[\w-]{43}", secret)
    assert secret not in err
    assert "the store's first" in err
    holder = store.tokens.holder(secret)
    assert holder is not None
    assert (holder.team, holder.name, holder.scope) == ("red", "ada", "admin")
    shown = run("tokens", "list", "--team", "red")[1] + run("tokens", "list", "--team", "red", "--json")[1]
    assert secret[:9] in shown
    assert secret not in shown
    assert secret not in repr(store.audit.find("red").items)
    _, _, err = run("tokens", "create", "--team", "red", "--name", "ada")
    assert "first" not in err
    assert "new" not in err


def test_json_has_the_secret_and_what_it_is(run: Run, store: Store) -> None:
    code, out, err = run("tokens", "create", "--team", "red", "--expires", "never", "--json")
    assert code == 0
    document = json.loads(out)
    holder = store.tokens.holder(document["token"])
    assert holder is not None
    assert (holder.token_id, holder.team, holder.scope) == (document["id"], "red", "submit")
    assert document["expires_at"] is None
    assert document["token"] not in err


def test_a_lifetime_is_kept(run: Run, store: Store) -> None:
    run("tokens", "create", "--team", "red", "--name", "ada", "--expires", "12h")
    (token,) = store.tokens.find("red").items
    assert token.expires_at is not None
    assert (token.expires_at - token.created_at).total_seconds() == pytest.approx(43200, abs=2)


def test_a_token_is_revoked_by_its_id(run: Run, store: Store) -> None:
    made = json.loads(run("tokens", "create", "--team", "red", "--name", "ada", "--json")[1])
    assert run("tokens", "revoke", made["id"])[0] == 2, "it is not team default's"
    assert run("tokens", "revoke", made["id"], "--team", "red")[0] == 0
    assert run("tokens", "revoke", made["id"], "--team", "red", "--json")[0] == 0
    assert store.tokens.holder(made["token"]) is None
    listed = json.loads(run("tokens", "list", "--team", "red", "--json")[1])["items"]
    assert listed[0]["revoked_at"] is not None
    assert "revoked" in run("tokens", "list", "--team", "red")[1]


def test_teams_and_members(run: Run, store: Store) -> None:
    assert "created: team vision" in run("teams", "create", "vision")[1]
    assert "was there already" in run("teams", "create", "vision")[1]
    assert "now in team vision" in run("teams", "members", "add", "vision", "ada", "--role", "admin")[1]
    assert "still in team vision" in run("teams", "members", "add", "vision", "ada")[1]
    listed = json.loads(run("teams", "members", "list", "vision", "--json")[1])["items"]
    assert [(each["name"], each["role"]) for each in listed] == [("ada", "submit")]
    out = run("teams", "list")[1]
    assert "vision" in out
    assert "ada" in out
    assert [each["name"] for each in json.loads(run("teams", "list", "--json")[1])["items"]] == [
        "default",
        "vision",
    ]
    assert run("teams", "members", "remove", "vision", "ada")[0] == 0
    assert store.teams.members("vision") == []
    assert run("teams", "members", "remove", "vision", "ada")[0] == 2
    assert {entry.actor[:4] for entry in store.audit.find("vision").items} == {"cli:"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tokens", "create", "--team", "Red"], "a-z"),
        (["tokens", "create", "--name", "a/b"], "letters"),
        (["tokens", "create", "--scope", "root"], "read or submit or admin"),
        (["tokens", "create", "--expires", "soon"], "90d"),
        (["tokens", "list", "--team", "absent"], "rankalloc teams create"),
        (["teams", "create", "A"], "a-z"),
        (["teams", "members", "add", "absent", "ada"], "rankalloc teams create"),
        (["teams", "members", "add", "default", "ada", "--role", "owner"], "read or submit or admin"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(
    run: Run, store: Store, arguments: list[str], told: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())
    assert [team.name for team in store.teams.all()] == ["default"]
    assert not store.tokens.any()


def test_a_role_that_is_too_narrow_is_not_widened_on_the_way(run: Run, store: Store) -> None:
    run("teams", "members", "add", "default", "ada", "--role", "read")
    code, _, err = run("tokens", "create", "--name", "ada", "--scope", "submit")
    assert code == 2
    assert "rankalloc teams members add default ada --role submit" in " ".join(err.split())
    assert store.teams.role("default", "ada") == "read"


def test_the_demo_logs_in_where_that_is_needed_and_leaves_no_token(settings: Settings, store: Store) -> None:
    with demo._login(settings) as secret:
        assert secret is None
    assert not store.tokens.any()
    token(store, "default", "ada")
    with demo._login(settings) as secret:
        assert secret is not None
        holder = store.tokens.holder(secret)
        assert holder is not None
        assert (holder.team, holder.scope) == ("default", "submit")
    assert store.tokens.holder(secret) is None
    assert [member.name for member in store.teams.members("default")] == ["ada"]
