"""The job store as a state machine, driven in any order Hypothesis likes, with a clock that the test moves."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from allocator.base.errors import Conflict, InvalidInput, LeaseLost, StoreUnavailable
from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import reconcile, release
from allocator.jobs.submit import cancel
from allocator.store import Item, Job, Store
from allocator.store.clock import EPOCH
from allocator.store.job_tables import items
from allocator.store.states import OPEN, TERMINAL
from allocator.store.tables import metadata
from tests.support import stages
from tests.support.jobs import new_job, types

LEASE_S, RETRY_S = 1000.0, 200.0
"""No lease runs out by itself during a test; the clock is moved by making stored times older."""
OWNERS = ("red", "blue")
SCRIPT = {"prepare": {"items": 2}, "calibrate": {"items": 2}}
"""Kind ``transfer``: three stages of 2, 2 and 1 items."""
STAGES = {"prepare": 2, "calibrate": 2, "probe": 1}


class JobStore(RuleBasedStateMachine):
    """Workers that claim, renew, finish, fail, die and come back from the dead, and everybody who mends after them."""

    store: Store
    configured: Settings

    @initialize()
    def begin(self) -> None:
        with self.store.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(delete(table))
        self.jobs: list[str] = []
        self.claimed: list[Item] = []
        """Every claim that was ever granted: the older ones are zombies'."""
        self.results: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, tuple[Job, list[str], dict[str, Item]]] = {}
        self.heard: set[tuple[str, int]] = set()
        """Items and attempts of which a message was published."""

    def executor(self, owner: str) -> Executor:
        return Executor(self.store, self.configured.model_copy(update={"worker_id": owner}))

    @precondition(lambda self: len(self._open()) < 2 and len(self.jobs) < 6)
    @rule()
    def submit(self) -> None:
        request = {"model": "local:m", "script": SCRIPT}
        self.jobs.append(new_job(self.store, self.configured, "transfer", request))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), stale=st.sampled_from([0, None, 1, 2]))
    def claim(self, data: st.DataObject, owner: str, stale: int | None) -> None:
        """By a message of some attempt, or without one."""
        known = self._all()
        unfinished = [item for item in known if item.state in ("queued", "running")]
        item = data.draw(st.sampled_from(3 * unfinished + known))
        attempt = None if stale is None else max(0, item.attempt - stale)
        before = self._live()
        found = self.executor(owner).claim(item.id, attempt)
        if found is not None:
            assert item.id not in before, "taken from a live attempt"
            assert attempt in (None, item.attempt), "an old message was believed"
            assert self.store.jobs.by_id(item.job_id).state == "running"
            self.claimed.append(found)

    def _claims(self) -> list[Item]:
        # Mostly of jobs that still run, living attempts and zombies alike; the others must stay refused, too.
        of_open = [claim for claim in self.claimed if claim.job_id in self._open()]
        return 3 * of_open + self.claimed

    def _open(self) -> list[str]:
        return [job_id for job_id in self.jobs if job_id not in self.ended]

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self._claims()))
        owned = self._owns(claim)
        assert self.store.items.renew(claim.id, claim.attempt, LEASE_S, (1, 2, "steps")) == owned

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self._claims()))
        owned, result = self._owns(claim), {"item": claim.key, "by": claim.attempt}
        try:
            self.executor("any").finish(claim, result)
        except LeaseLost:
            assert not owned
        else:
            assert owned, "a result was taken from an attempt that did not own the item"
            self.results[claim.id] = result

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), kind=st.sampled_from(["stop", "stop", "stop", "ValueError", "outage", "invalid"]))
    def fail(self, data: st.DataObject, kind: str) -> None:
        """The work itself ends in an error, or its process is told to stop."""
        claim = data.draw(st.sampled_from(self._claims()))
        if kind == "stop":
            self.executor("any")._release(claim)
            return
        owned, before = self._owns(claim), self.store.items.get(claim.id)
        with patch.object(stages.Scripted, "run", side_effect=_error(kind)):
            self.executor("any").run(claim)
        if not owned:
            assert self.store.items.get(claim.id) == before, "a zombie's failure changed its item"

    @precondition(lambda self: self.jobs)
    @rule(seconds=st.sampled_from([RETRY_S, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        """Everything stored is so much older: leases run out, retries become due."""
        with self.store.database.write() as connection:
            columns = (items.c.lease_expires_at, items.c.not_before, items.c.publish_after)
            for row_id, *times in connection.execute(select(items.c.id, *columns)).all():
                older = {
                    column: time - timedelta(seconds=seconds)
                    for column, time in zip(columns, times, strict=True)
                    if time != EPOCH
                }
                if older:
                    connection.execute(update(items).where(items.c.id == row_id).values(older))

    @rule()
    def reconcile(self) -> None:
        live = self._live()
        reconcile(self.store, self.configured)
        assert live <= self._live(), "a live attempt lost its item"

    @rule(owner=st.sampled_from(OWNERS), counts=st.booleans())
    def dies(self, owner: str, counts: bool) -> None:
        """A supervisor knows that a worker is dead."""
        release(self.store, self.configured, owner, counts=counts)
        assert not self.store.items.owned_by(owner)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), now=st.sampled_from([False, False, True]))
    def cancel(self, data: st.DataObject, now: bool) -> None:
        if not now:  # rarely: nothing else can happen to a job afterwards
            return
        job_id = data.draw(st.sampled_from(self.jobs))
        before = self.store.jobs.by_id(job_id)
        try:
            after = cancel(self.store, team="default", job_id=job_id, by="me")
        except Conflict:
            assert before.state in TERMINAL - {"cancelled"}
        else:
            assert after.state in ("cancelled", "cancelling")

    @rule()
    def publish(self) -> None:
        due = self.store.wakeups.due()
        self.store.wakeups.published(due, LEASE_S)
        assert self.store.wakeups.due() == []
        self.heard |= {(message.item_id, message.attempt) for message in due}

    @invariant()
    def all_promises_hold(self) -> None:
        announced = self._announced()
        for job_id in self.jobs:
            job, found = self.store.jobs.by_id(job_id), self._items(job_id)
            seen = types(self.store, job_id)  # checks the numbers for gaps, too
            self._over_stays_over(job, found, seen)
            self._one_attempt_at_a_time(found)
            self._results_are_their_owners(job_id, found)
            self._stages_follow_each_other(job, found, seen)
            if job.state in OPEN:
                waiting = {item.id for item in found if item.state == "queued"}
                assert waiting <= announced, "an item that nobody will hear of"

    def _over_stays_over(self, job: Job, found: list[Item], seen: list[str]) -> None:
        """Apart from items that were in hand: whoever runs them learns of it when he has something to store."""
        if job.state in TERMINAL:
            settled = {item.id: item for item in found if item.state != "running"}
            *told, before = self.ended.setdefault(job.id, (job, seen, settled))
            assert told == [job, seen]
            assert before.items() <= settled.items()
            assert not [item for item in found if item.state == "queued"]

    def _one_attempt_at_a_time(self, found: list[Item]) -> None:
        for item in found:
            mine = [claim for claim in self.claimed if claim.id == item.id]
            assert [claim.attempt for claim in mine] == list(range(1, item.attempt + 1))
            assert (item.lease_owner != "") == (item.state == "running")
            assert item.failures + item.lost_leases <= item.attempt
            assert item.failures <= self.configured.max_attempts >= item.lost_leases

    def _results_are_their_owners(self, job_id: str, found: list[Item]) -> None:
        stored = self.store.items.results(job_id)
        for stage in STAGES:
            done = [item for item in found if item.stage == stage and item.state == "succeeded"]
            assert [self.results[item.id] for item in done] == stored.get(stage, [])
        succeeded = {item.id for item in found if item.state == "succeeded"}
        assert succeeded == self.results.keys() & {item.id for item in found}

    def _stages_follow_each_other(self, job: Job, found: list[Item], seen: list[str]) -> None:
        there = Counter(item.stage for item in found)
        done = Counter(item.stage for item in found if item.state == "succeeded")
        entered = [stage for stage in STAGES if there[stage]]
        assert seen.count("stage.started") == len(entered), "a stage was entered twice, or unseen"
        assert entered == list(STAGES)[: len(entered)]
        assert all(there[stage] == STAGES[stage] for stage in entered)
        assert all(done[stage] == STAGES[stage] for stage in entered[:-1]), "entered before the last was done"
        # All done and yet not succeeded: the last item ended while the job was being cancelled.
        assert (done == STAGES) == (job.state == "succeeded") or (done == STAGES and job.state == "cancelled")

    def _announced(self) -> set[str]:
        """Items of which workers were told since the last attempt, or will be as soon as they may be claimed."""
        with self.store.database.read() as connection:
            rows = connection.execute(select(items.c.id, items.c.attempt, items.c.publish_after)).all()
        return {
            item_id
            for item_id, attempt, publish_after in rows
            if publish_after == EPOCH or (item_id, attempt) in self.heard
        }

    def _items(self, job_id: str) -> list[Item]:
        columns = [items.c[name] for name in Item.__dataclass_fields__]
        statement = select(*columns).where(items.c.job_id == job_id).order_by(items.c.stage, items.c.position)
        with self.store.database.read() as connection:
            return [Item(*row) for row in connection.execute(statement)]

    def _all(self) -> list[Item]:
        return [item for job_id in self.jobs for item in self._items(job_id)]

    def _owns(self, claim: Item) -> bool:
        return self.store.items.owns(claim.id, claim.attempt)

    def _live(self) -> set[str]:
        """Items with a lease that has not run out."""
        expired = {item.id for item in self.store.items.orphans()}
        return {item.id for item in self._all() if item.state == "running"} - expired


def _error(kind: str) -> Exception:
    errors: dict[str, Exception] = {
        "ValueError": ValueError("a bug"),
        "outage": StoreUnavailable("the database went away for a moment"),
        "invalid": InvalidInput("this item is wrong"),
    }
    return errors[kind]


def test_no_order_of_events_breaks_what_the_store_promises(
    any_store: Store, any_settings: Settings, scripted: None
) -> None:
    # The clock moves only when a rule moves it: leases and retries are far longer than an example takes.
    configured = any_settings.model_copy(update={"lease_s": LEASE_S, "retry_backoff_s": RETRY_S / 3})
    machine = type("JobStoreHere", (JobStore,), {"store": any_store, "configured": configured})
    embedded = any_settings.embedded_database
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50 if embedded else 8,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
