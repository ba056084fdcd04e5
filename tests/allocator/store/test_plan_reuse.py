"""Finding plans, and moving names among them, on either database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from allocator.base.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, PreconditionRequired
from allocator.base.settings import Settings
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Provenance
from allocator.store import Store, migrate
from allocator.store.database import Database
from allocator.store.plan_views import lineage
from tests.support.plans import plan_named
from tests.support.profiles import small_profile

A, B, C = ("a1" * 32, "b2" * 32, "a1a1a1" + "c" * 58)


def plan(digest: str, loss: float = 0.1, limits: dict[str, int] | None = None, **more: str) -> Plan:
    return plan_named(digest, loss_nats=loss, limits=limits, **more)


def put(store: Store, *plans: Plan, team: str = "ada") -> None:
    for each in plans:
        store.plans.put(team, each, created_by="me")


def found(store: Store, **query: Any) -> list[str]:
    return [row["digest"] for row in store.plans.find("ada", **query).items]


def test_plans_are_found_by_budget_and_loss(any_store: Store) -> None:
    put(
        any_store,
        plan(A, 0.1, {"params": 1000, "memory@batch=1,context=9": 5}),
        plan(B, 0.2, {"params": 2000}),
    )
    put(any_store, plan(C, 0.3, {"block_params": 2**53 - 1}), plan(A, 0.9), plan(A, 0.9), team="bob")
    put(any_store, plan(C, 0.3, {"block_params": 2**53 - 1}))
    assert found(any_store, metric="params") == [B, A]
    assert found(any_store, metric="params", limits=(1001, None)) == [B]
    assert found(any_store, metric="params", limits=(None, 1000)) == [A]
    assert found(any_store, metric="params", limits=(1000, 2000)) == [B, A]
    assert found(any_store, metric="memory@batch=1,context=9") == [A]
    assert found(any_store, metric="block_params", limits=(2**53 - 1, None)) == [C]
    assert found(any_store, losses_nats=(0.1, 0.2)) == [B, A]
    assert found(any_store, losses_nats=(0.15, None), metric="params") == [B]
    any_store.notes.add_label("ada", B, "good", by="me")
    any_store.aliases.set("ada", "prod", A, by="me", expected=None)
    assert found(any_store, label="good") == [B]
    assert found(any_store, alias="prod") == [A]
    assert found(any_store, alias="prod", label="good") == []
    assert any_store.plans.find("bob", label="good").items == []
    assert any_store.plans.find("bob", alias="prod").items == []
    page = any_store.plans.find("ada", metric="params", limit=1)
    rest = any_store.plans.find("ada", metric="params", limit=1, cursor=page.next_cursor)
    assert [row["digest"] for row in rest.items] == [A]
    assert rest.next_cursor is None


def test_a_plan_is_meant_by_digest_beginning_or_alias(any_store: Store) -> None:
    put(any_store, plan(A), plan(B), plan(C))
    put(any_store, plan("d" * 64), team="bob")
    any_store.aliases.set("ada", "prod", B, by="me", expected=None)
    resolve = any_store.plans.resolve
    assert resolve("ada", A) == A
    assert resolve("ada", "b2b2b2") == B
    assert resolve("ada", "a1a1a1c") == C
    assert resolve("ada", "alias:prod") == B
    with pytest.raises(InvalidInput, match="several") as caught:
        resolve("ada", "a1a1a1")
    assert A in caught.value.fields[0].allowed
    with pytest.raises(InvalidInput, match="at least 6"):
        resolve("ada", "b2b2b")
    for name in ("d" * 64, "dddddd", "alias:none", "alias:", "B2B2B2B2", "%", "b2b2b%", "prod"):
        with pytest.raises(NotFound):
            resolve("ada", name)
    with pytest.raises(NotFound):
        resolve("bob", "alias:prod")


def test_an_alias_moves_only_under_what_is_known_of_it(any_store: Store) -> None:
    aliases = any_store.aliases
    first, new = aliases.set("ada", "prod", A, by="ann", expected="absent")
    assert (first.version, first.digest, new) == (1, A, True)
    with pytest.raises(PreconditionRequired):
        aliases.set("ada", "prod", B, by="ben", expected=None)
    with pytest.raises(PreconditionFailed):
        aliases.set("ada", "prod", B, by="ben", expected="absent")
    with pytest.raises(PreconditionFailed, match="by ann"):
        aliases.set("ada", "prod", B, by="ben", expected=frozenset({7}))
    with pytest.raises(PreconditionFailed):
        aliases.set("ada", "other", B, by="ben", expected=frozenset({1}))
    assert aliases.get("ada", "prod") == first
    moved, new = aliases.set("ada", "prod", B, by="ben", expected=frozenset({1}))
    assert (moved.version, moved.digest, moved.changed_by, new) == (2, B, "ben", False)
    assert aliases.set("ada", "prod", B, by="cat", expected=frozenset({2}))[0] == moved, (
        "no change, no version"
    )
    assert aliases.set("ada", "prod", A, by="cat", expected="exists")[0].version == 3
    with pytest.raises(NotFound):
        aliases.get("bob", "prod")
    with pytest.raises(NotFound):
        aliases.history("bob", "prod")


def test_rolling_back_is_a_change_that_can_itself_be_undone(any_store: Store) -> None:
    aliases = any_store.aliases
    for version, digest in enumerate((A, B, C)):
        aliases.set("ada", "prod", digest, by="ann", expected=frozenset({version}) if version else None)
    back = aliases.roll_back("ada", "prod", by="ben", expected=frozenset({3}))
    assert (back.digest, back.version) == (B, 4)
    assert aliases.roll_back("ada", "prod", by="ben", expected=frozenset({4})).digest == C
    assert aliases.roll_back("ada", "prod", by="ben", expected=frozenset({5}), version=1).digest == A
    with pytest.raises(PreconditionFailed):
        aliases.roll_back("ada", "prod", by="ben", expected=frozenset({5}))
    with pytest.raises(PreconditionRequired):
        aliases.roll_back("ada", "prod", by="ben", expected=None)
    with pytest.raises(Conflict, match="version 99"):
        aliases.roll_back("ada", "prod", by="ben", expected="exists", version=99)
    history = aliases.history("ada", "prod").items
    assert [(row["version"], row["action"], row["from_digest"], row["to_digest"]) for row in history] == [
        (6, "rollback", C, A),
        (5, "rollback", B, C),
        (4, "rollback", C, B),
        (3, "set", B, C),
        (2, "set", A, B),
        (1, "set", None, A),
    ]
    assert [row["changed_by"] for row in history] == ["ben"] * 3 + ["ann"] * 3


def test_a_deleted_alias_keeps_its_history_and_its_plans(any_store: Store) -> None:
    put(any_store, plan(A))
    aliases = any_store.aliases
    aliases.set("ada", "prod", A, by="ann", expected=None)
    with pytest.raises(PreconditionRequired):
        aliases.delete("ada", "prod", by="ben", expected=None)
    aliases.delete("ada", "prod", by="ben", expected=frozenset({1}))
    with pytest.raises(NotFound):
        aliases.delete("ada", "prod", by="ben", expected="exists")
    assert any_store.plans.resolve("ada", A) == A
    again, _ = aliases.set("ada", "prod", A, by="cat", expected=None)
    assert again.version == 3, "an old belief never comes true again"
    assert [row["action"] for row in aliases.history("ada", "prod").items] == ["set", "delete", "set"]
    with pytest.raises(Conflict, match="no former plan"):
        aliases.roll_back("ada", "prod", by="cat", expected="exists")
    with pytest.raises(Conflict, match="version 2"):
        aliases.roll_back("ada", "prod", by="cat", expected="exists", version=2)


@pytest.mark.parametrize("known", [None, frozenset({1})])
def test_of_many_at_once_one_wins(any_store: Store, known: frozenset[int] | None) -> None:
    """Everybody makes the alias, or moves the version that everybody has seen."""
    if known:
        any_store.aliases.set("ada", "prod", C, by="me", expected=None)

    def attempt(n: int) -> bool:
        try:
            any_store.aliases.set("ada", "prod", f"{n:02d}" * 32, by=str(n), expected=known or "absent")
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(16)))
    assert won.count(True) == 1
    assert any_store.aliases.get("ada", "prod").changed_by == str(won.index(True))
    assert len(any_store.aliases.history("ada", "prod").items) == (2 if known else 1)


@pytest.mark.parametrize("name", ["", "Prod", "-x", ".x", "a b", "a/b", "a" * 64, "ä", "a\n"])
def test_names_are_plain(any_store: Store, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        any_store.aliases.set("ada", name, A, by="me", expected=None)
    with pytest.raises(InvalidInput, match="label"):
        any_store.notes.add_label("ada", A, name, by="me")


def test_labels_and_comments_are_beside_the_plan(any_store: Store) -> None:
    notes = any_store.notes
    assert notes.add_label("ada", A, "good", by="ann")
    assert not notes.add_label("ada", A, "good", by="ben")
    assert [row["created_by"] for row in notes.labels("ada", A)] == ["ann"]
    assert notes.remove_label("ada", A, "good", by="ann")
    assert not notes.remove_label("ada", A, "good", by="ann")
    ids = [notes.add_comment("ada", A, f"größer ✓ {n}", by="ann")["id"] for n in range(3)]
    page = notes.comments("ada", A, limit=2)
    assert [row["id"] for row in page.items] == ids[:0:-1]
    assert notes.comments("ada", A, limit=2, cursor=page.next_cursor).items[0]["text"] == "größer ✓ 0"
    assert notes.comments("bob", A).items == []
    for wrong in ("", "  ", "x" * 2001, "a\0b"):
        with pytest.raises(InvalidInput, match="1 to 2000"):
            notes.add_comment("ada", A, wrong, by="ann")


def test_lineage_leads_from_the_profile_to_the_checkpoints(any_store: Store) -> None:
    store, profile = any_store, small_profile("p")
    store.profiles.put("ada", profile)
    refined = plan(B, refined_from=A)
    moved = plan(C, transferred_from=B)
    put(store, plan(A), refined, moved)
    row = {"team": "ada", "state": "succeeded", "model": "local:m", "request": {}, "request_sha256": "0"}
    for job_id, kind in (("01", "plan"), ("02", "compress")):
        store.jobs.insert(id=job_id, kind=kind, created_by="me", inline=False, plan_digest=B, **row)
    store.jobs.insert(
        id="03", kind="compress", created_by="x", inline=False, plan_digest=B, **{**row, "team": "bob"}
    )
    for name in ("compact/config.json", "compact/model.safetensors", "report.json"):
        store.artifacts.add("ada", "02", name, 3, "f" * 64, f"02/{name}")
    store.plans.add_measurement("ada", B, "02", {"measured_loss_nats": 0.5})
    found = lineage(store, "ada", B)
    assert found["profile"]["origin"] == "measured"
    assert found["profile"]["calibration_sha256"] == "c" * 64
    assert found["derived_from"] == {"plan": A, "how": "refined"}
    assert found["derived"] == [{"plan": C, "how": "transferred", "model": "local:m"}]
    assert [job["id"] for job in found["made_by"]] == ["01"]
    (applied,) = found["applied_by"]
    assert applied["measured"] == {"measured_loss_nats": 0.5}
    (compact,) = applied["checkpoints"]
    assert [file["name"] for file in compact["files"]] == ["compact/config.json", "compact/model.safetensors"]
    assert lineage(store, "ada", A)["derived"][0]["plan"] == B
    origin = Provenance(original_key="p", sha256="0" * 64, imported_by="ada", imported_at="today")
    store.profiles.put("ada", profile.replaced(key="q", provenance=origin))
    put(store, plan("7" * 64, profile_key="q"), plan("8" * 64, profile_key="gone"))
    assert lineage(store, "ada", "7" * 64)["profile"]["origin"] == "imported"
    assert lineage(store, "ada", "8" * 64)["profile"]["origin"] == "missing"
    with pytest.raises(NotFound):
        lineage(store, "bob", B)


def test_plans_stored_by_an_earlier_version_are_found_too(bare_settings: Settings) -> None:
    database = Database(bare_settings.sqlalchemy_url)
    Store.upgrade(bare_settings)
    store = Store.open(bare_settings)
    put(store, plan(A, 0.25, {"params": 7}), plan(B, refined_from=A))
    store.close()
    for walk, target in ((command.downgrade, "0002"), (command.upgrade, "head")):
        with database.write() as connection:
            config = migrate.config()
            config.attributes["connection"] = connection
            walk(config, target)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM plan_budgets")).scalar() == 2
    database.close()
    store = Store.open(bare_settings)
    assert found(store, metric="params", limits=(7, 7)) == [A]
    assert found(store, losses_nats=(0.2, 0.3)) == [A]
    assert found(store, derived_from=A) == [B]
    store.close()
