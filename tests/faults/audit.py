"""What must hold after every fault, whatever it was."""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from allocator.base.errors import StoreUnavailable
from allocator.jobs.host.cleanup import sweep
from allocator.stages.kinds import SEQUENCES
from allocator.store.clock import EPOCH
from allocator.store.states import TERMINAL
from tests.faults.world import World, undisturbed


@dataclass
class Found:
    """Of one round."""

    jobs: int = 0
    lost_units: int = 0
    """Of jobs that succeeded: units or items' results that are not there."""
    redone_units: int = 0
    """Executions, of units and of items without any, beyond the first: what a death interrupted."""
    violations: list[str] = field(default_factory=list)


class Runs:
    """``runs.log``, read: who executed what."""

    def __init__(self, world: World, salt: str) -> None:
        log = world.settings.home / "runs.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        self.lines = [
            (what, name, int(attempt)) for what, name, attempt in lines if name.startswith(f"{salt}:")
        ]

    def count(self, what: str) -> Counter[str]:
        return Counter(name for found, name, _ in self.lines if found == what)

    def repeated(self) -> list[str]:
        """Units that were measured after they had been stored, by an attempt that had reason to know."""
        stored_by: dict[str, int] = {}
        found = []
        for what, name, attempt in self.lines:
            if what == "stored":
                stored_by.setdefault(name, attempt)
            elif what == "measure" and attempt >= stored_by.get(name, 1 << 30):
                found.append(name)
        return found


class Watch:
    """Looks at artifacts while the round runs: whatever is listed must be there, whole, as it was recorded."""

    def __init__(self, world: World) -> None:
        self._world, self._stop = world, threading.Event()
        self.violations: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.1):
                for job_id in list(self._world.jobs):
                    self._look(job_id)
        except Exception:
            # An error that only the thread sees would fail whichever test is running, without its cause.
            self.violations.append(f"the watch of artifacts ended: {traceback.format_exc()}")

    def _look(self, job_id: str) -> None:
        """One job's artifacts. A read that a database's end cuts off is no violation: the next one sees the same files."""
        with suppress(StoreUnavailable):
            self._compare(job_id)

    def _compare(self, job_id: str) -> None:
        world = self._world
        for row in world.store.artifacts.list("default", job_id):
            path = world.settings.artifacts_dir / job_id / row["name"]
            content = _content(path)
            if hashlib.sha256(content).hexdigest() != row["sha256"] and row in world.store.artifacts.list(
                "default", job_id
            ):
                self.violations.append(f"{row['name']} was listed but not whole")


def _content(path: Path) -> bytes:
    """A file's bytes. Healing replaces artifacts: a file may go between a look for it and its opening."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b"absent"


def audit(world: World, ends: dict[str, set[str]], scratch: Path) -> Found:
    """Check every job of the round and what is left on the disk.

    Args:
        ends: job -> states in which it may have ended; ``succeeded`` for jobs that are not named.
        scratch: a folder for the undisturbed runs.
    """
    found = Found(jobs=len(world.store.jobs.find("default", limit=200).items))
    for job_id in world.jobs:
        _Job(world, job_id, found).check(ends.get(job_id, {"succeeded"}), scratch / job_id)
    sweep(world.store, world.settings)
    if left := sorted(path.name for path in world.settings.tmp_dir.iterdir()):
        found.violations.append(f"left in tmp: {left}")
    if left := sorted(path.name for path in world.settings.partial_dir.iterdir()):
        found.violations.append(f"left of partial results: {left}")
    return found


class _Job:
    def __init__(self, world: World, job_id: str, found: Found) -> None:
        self.world, self.found = world, found
        self.job = world.store.jobs.by_id(job_id)
        self.items = [
            item for stage in SEQUENCES[self.job.kind] for item in world.store.items.of_stage(job_id, stage)
        ]
        self.salt = self.job.request["salt"]
        self.runs = Runs(world, self.salt)

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            self.found.violations.append(f"job {self.job.id} ({self.job.state}): {what}")

    def check(self, allowed: set[str], scratch: Path) -> None:
        self.expect(self.job.state in allowed, f"should be {allowed}; error {self.job.error}")
        self._check_rows()
        self._check_events()
        self._check_executions()
        sweep(self.world.store, self.world.settings)
        self._check_files()
        if self.job.state == "succeeded":
            self._compare(scratch)

    def _check_rows(self) -> None:
        running = [item.key for item in self.items if item.state in ("queued", "running")]
        self.expect(not running, f"not over: {running}")
        held = [item.key for item in self.items if item.lease_owner or item.lease_expires_at != EPOCH]
        self.expect(not held, f"a lease is left: {held}")

    def _check_events(self) -> None:
        events = self.world.store.events.list("default", self.job.id, limit=10_000)
        self.expect([e.seq for e in events] == list(range(1, len(events) + 1)), "event numbers have gaps")
        kinds = Counter(event.type for event in events)
        ends = {f"job.{state}": kinds[f"job.{state}"] for state in TERMINAL if kinds[f"job.{state}"]}
        self.expect(ends == {f"job.{self.job.state}": 1}, f"ended more than once: {ends}")
        entered = Counter(event.data["stage"] for event in events if event.type == "stage.started")
        self.expect(set(entered.values()) <= {1}, f"a stage was entered twice: {entered}")
        self.finished = {
            (event.data["stage"], event.data["item"]): event.data["attempt"]
            for event in events
            if event.type == "item.finished"
        }
        succeeded = sum(item.state == "succeeded" for item in self.items)
        self.expect(
            kinds["item.finished"] == len(self.finished) == succeeded, "an item finished twice, or unseen"
        )

    def _check_executions(self) -> None:
        begun: dict[str, list[int]] = defaultdict(list)
        for what, name, attempt in self.runs.lines:
            if what == "begin":
                begun[name].append(attempt)
        for item in self.items:
            attempts = begun[f"{self.salt}:{item.stage}/{item.key}"]
            self.expect(len(set(attempts)) == len(attempts), f"{item.key}: an attempt ran twice: {attempts}")
            self.expect(max(attempts, default=0) <= item.attempt, f"{item.key} ran without a claim")
            last = self.finished.get((item.stage, item.key))
            self.expect(last in (None, item.attempt), f"{item.key} was claimed after it had finished")
            measured = any(
                name.startswith(f"{self.salt}:{item.stage}/{item.key}/") for _, name, _ in self.runs.lines
            )
            self.found.redone_units += 0 if measured else max(0, len(attempts) - 1)
        repeated = self.runs.repeated()
        self.expect(not repeated, f"measured although stored: {repeated}")
        self.found.redone_units += sum(self.runs.count("measure").values()) - len(self.runs.count("measure"))

    def _check_files(self) -> None:
        folder = self.world.settings.artifacts_dir / self.job.id
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        rows = {row["name"]: row for row in self.world.store.artifacts.list("default", self.job.id)}
        self.expect(set(there) == set(rows), f"files {sorted(there)}, recorded {sorted(rows)}")
        for name in set(there) & set(rows):
            found = hashlib.sha256(there[name].read_bytes()).hexdigest()
            self.expect(found == rows[name]["sha256"], f"{name} is not what was recorded")

    def _compare(self, scratch: Path) -> None:
        results, files = _calm(scratch, self.world.jobs[self.job.id])
        mine = self.world.store.items.results(self.job.id)
        self.expect(mine == results, "results differ from an undisturbed run's")
        self.found.lost_units += sum(len(of_stage) for of_stage in results.values())
        self.found.lost_units -= sum(len(of_stage) for of_stage in mine.values())
        self.found.lost_units += self._units_missing()
        folder = self.world.settings.artifacts_dir / self.job.id
        written = {name: (folder / name).read_bytes() for name in files if (folder / name).is_file()}
        self.expect(written == files, "artifacts differ from an undisturbed run's")

    def _units_missing(self) -> int:
        script = self.world.jobs[self.job.id]
        keys = [
            f"{self.salt}:{item.stage}/{item.key}/{n}"
            for item in self.items
            for n in range(script.get(item.stage, {}).get("units", 0))
        ]
        return len(keys) - len(self.world.store.units.get_many("default", keys))


_known: dict[str, tuple[dict[str, Any], dict[str, bytes]]] = {}


def _calm(scratch: Path, script: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """`undisturbed`, once for every script, and at once: what an item takes is in no result."""
    calm = {
        name: {k: v for k, v in entry.items() if k not in ("die", "pause_s")}
        for name, entry in script.items()
    }
    name = repr(sorted(calm.items()))
    if name not in _known:
        _known[name] = undisturbed(scratch, calm)
    return _known[name]
