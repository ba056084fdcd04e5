"""What every backend of the store promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from allocator.base.errors import InvalidInput, NotFound
from allocator.plan.documents.profile import Calibration
from allocator.store import Store
from allocator.store.clock import utc_in, utcnow
from tests.support.plans import plan_named
from tests.support.profiles import small_profile

_CURVE = small_profile().curves[0]
PROFILE = small_profile("p1").replaced(
    solver_version="größer ✓",
    curves=[_CURVE.replaced(loss_nats=[1e17, 3.3333333333333335, 0.1, *_CURVE.loss_nats[3:-1], 1e-17])],
)
PLAN = plan_named("d1", profile_key="p1", limits={"params": 2**53 - 1})


def _job(store: Store, job_id: str, team: str = "default", **values: object) -> str:
    row = {"kind": "plan", "state": "queued", "model": "local:m", "request": {}, "request_sha256": "0" * 64}
    row |= {"created_by": "me", "inline": False}
    store.jobs.insert(id=job_id, team=team, **{**row, **values})
    return job_id


def test_unit_is_stored_once_and_the_first_stays(any_store: Store) -> None:
    assert any_store.units.put("default", "k", {"loss": 0.1})
    assert not any_store.units.put("default", "k", {"loss": 9.9})
    assert any_store.units.get_many("default", ["k", "absent"]) == {"k": {"loss": 0.1}}


def test_units_are_found_beyond_one_chunk_of_keys(any_store: Store) -> None:
    keys = [f"k{n}" for n in range(1101)]
    with any_store.transaction():
        for key in keys:
            any_store.units.put("default", key, {"key": key})
    assert any_store.units.get_many("default", keys) == {key: {"key": key} for key in keys}
    assert any_store.units.get_many("default", []) == {}


def test_of_many_threads_one_stores_the_unit(any_store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda n: any_store.units.put("default", "k", {"by": n}), range(32)))
    assert stored.count(True) == 1
    assert any_store.units.get_many("default", ["k"])["k"] == {"by": stored.index(True)}


def test_documents_come_back_as_they_went_in(any_store: Store) -> None:
    any_store.profiles.put("default", PROFILE)
    any_store.plans.put("default", PLAN, created_by="me")
    assert any_store.profiles.get("default", "p1") == PROFILE
    assert any_store.plans.get("default", "d1") == PLAN


def test_another_teams_objects_do_not_exist(any_store: Store) -> None:
    any_store.profiles.put("red", PROFILE)
    any_store.plans.put("red", PLAN, created_by="me")
    any_store.plans.add_measurement("red", "d1", "j1", {"loss_nats": 0.1})
    any_store.units.put("red", "k", {})
    any_store.models.put("red", "a" * 64, "local:m", {})
    _job(any_store, "j1", team="red")
    any_store.events.append("j1", "job.queued", "queued")
    any_store.artifacts.add("red", "j1", "report.json", 2, "b" * 64, "j1/report.json")
    for look in (
        lambda: any_store.profiles.get("blue", "p1"),
        lambda: any_store.plans.get("blue", "d1"),
        lambda: any_store.models.get("blue", "a" * 64),
        lambda: any_store.models.find_by_reference("blue", "local:m"),
        lambda: any_store.jobs.get("blue", "j1"),
        lambda: any_store.artifacts.get("blue", "j1", "report.json"),
    ):
        with pytest.raises(NotFound):
            look()
    assert any_store.profiles.find("blue").items == []
    assert any_store.plans.find("blue").items == []
    assert any_store.plans.measurements("blue", "d1") == []
    assert any_store.units.get_many("blue", ["k"]) == {}
    assert any_store.jobs.find("blue").items == []
    assert any_store.events.list("blue", "j1") == []
    assert any_store.artifacts.list("blue", "j1") == []
    assert any_store.profiles.put("blue", PROFILE), "unique per team, not over all teams"


def test_profiles_are_filtered_by_their_columns(any_store: Store) -> None:
    changed = PROFILE.model.replaced(reference="local:o", weights_sha256="b" * 64)
    other = PROFILE.replaced(key="p2", model=changed, calibration=Calibration(sha256="d" * 64))
    any_store.profiles.put("default", PROFILE)
    any_store.profiles.put("default", other)

    def keys(**filters: str) -> list[str]:
        return [found["key"] for found in any_store.profiles.find("default", **filters).items]

    assert keys() == ["p2", "p1"]
    assert keys(model="local:small") == ["p1"]
    assert keys(weights_sha256="b" * 64) == ["p2"]
    assert keys(calibration_sha256="c" * 64) == ["p1"]
    assert keys(model="local:small", calibration_sha256="d" * 64) == []


def test_pages_join_to_the_whole_list_while_rows_are_added(any_store: Store) -> None:
    for n in range(7):
        any_store.plans.put("default", PLAN.replaced(digest=f"d{n}"), created_by="me")
    page = any_store.plans.find("default", limit=3)
    seen = [found["digest"] for found in page.items]
    any_store.plans.put("default", PLAN.replaced(digest="late"), created_by="me")
    while page.next_cursor:
        page = any_store.plans.find("default", limit=3, cursor=page.next_cursor)
        seen += [found["digest"] for found in page.items]
    assert seen == [f"d{n}" for n in reversed(range(7))]


@pytest.mark.parametrize("cursor", ["", "nonsense", "djE6", "ünïcode", "djE6YWJj", "djE6LTE", "djI6MQ"])
def test_a_cursor_of_somebody_else_is_refused(any_store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        any_store.plans.find("default", cursor=cursor)


def test_measurements_are_beside_the_plan_and_one_per_job(any_store: Store) -> None:
    any_store.plans.put("default", PLAN, created_by="me")
    any_store.plans.add_measurement("default", "d1", "j1", {"loss_nats": 0.1})
    any_store.plans.add_measurement("default", "d1", "j2", {"loss_nats": 0.2})
    any_store.plans.add_measurement("default", "d1", "j1", {"loss_nats": 0.3})
    found = any_store.plans.measurements("default", "d1")
    assert [(row["job_id"], row["measured"]["loss_nats"]) for row in found] == [("j1", 0.3), ("j2", 0.2)]
    assert any_store.plans.get("default", "d1").measured is None


def test_a_reference_means_the_weights_seen_last(any_store: Store) -> None:
    any_store.models.put("default", "a" * 64, "local:m", {"n": 1})
    any_store.models.put("default", "b" * 64, "local:m", {"n": 2})
    assert any_store.models.find_by_reference("default", "local:m") == {"n": 2}
    any_store.models.put("default", "a" * 64, "local:m", {"n": 3})
    assert any_store.models.find_by_reference("default", "local:m") == {"n": 3}
    assert any_store.models.get("default", "b" * 64) == {"n": 2}


def test_events_are_numbered_without_gaps_by_many_threads(any_store: Store) -> None:
    job = _job(any_store, "j1")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: any_store.events.append(job, "test.event", str(n)), range(60)))
    found = any_store.events.list("default", job)
    assert [event.seq for event in found] == list(range(1, 61))
    assert sorted(int(event.message) for event in found) == list(range(60))
    assert [event.seq for event in any_store.events.list("default", job, after=57)] == [58, 59, 60]


def test_a_rolled_back_event_leaves_no_gap(any_store: Store) -> None:
    job = _job(any_store, "j1")
    any_store.events.append(job, "test.event", "first")
    with suppress(ZeroDivisionError), any_store.transaction():
        any_store.events.append(job, "test.event", "lost")
        raise ZeroDivisionError
    assert any_store.events.append(job, "test.event", "second") == 2


def test_a_transaction_is_one_and_a_savepoint_is_undone_alone(any_store: Store) -> None:
    with any_store.transaction():
        any_store.units.put("default", "kept", {})
        with suppress(ZeroDivisionError), any_store.savepoint():
            any_store.units.put("default", "undone", {})
            raise ZeroDivisionError
        assert any_store.units.get_many("default", ["kept", "undone"]) == {"kept": {}}
    assert any_store.units.get_many("default", ["kept", "undone"]) == {"kept": {}}


def test_a_transaction_belongs_to_its_thread(any_store: Store) -> None:
    with any_store.transaction():
        any_store.units.put("default", "mine", {})
        seen: list[object] = []
        other = threading.Thread(target=lambda: seen.append(any_store.units.get_many("default", ["mine"])))
        other.start()
        other.join()
        assert seen == [{}], "uncommitted rows were visible to another thread"


def test_an_artifact_of_a_repeated_item_replaces_its_row(any_store: Store) -> None:
    job = _job(any_store, "j1")
    any_store.artifacts.add("default", job, "a/b.bin", 2**40, "b" * 64, "j1/a/b.bin")
    any_store.artifacts.add("default", job, "a/b.bin", 5, "c" * 64, "j1/a/b.bin")
    (found,) = any_store.artifacts.list("default", job)
    assert (found["name"], found["size"], found["sha256"]) == ("a/b.bin", 5, "c" * 64)


def test_times_are_the_databases_in_utc_and_move_within_a_transaction(any_store: Store) -> None:
    with any_store.database.read() as connection:
        first = connection.execute(select(utcnow())).scalar_one()
        ahead, ago = connection.execute(select(utc_in(90.5), utc_in(-90.5))).one()
        while (second := connection.execute(select(utcnow())).scalar_one()) == first:
            pass
    assert first.tzinfo == UTC
    assert abs((first - datetime.now(UTC)).total_seconds()) < 60
    assert (ahead - ago).total_seconds() == pytest.approx(181, abs=0.5)
    assert second > first
