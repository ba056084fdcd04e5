"""Stages that do what the job's request tells them, for tests of the machinery. No option of the product
leads here.

``request["script"]`` maps a stage to what its items do; a stage that is not named has one item that just
succeeds::

    {"profile": {"items": 3, "gate": "profile-1", "error": {"kind": "ValueError", "item": "profile-0",
    "times": 2}}}

``gate``: that item reports progress until the file ``<home>/gate`` exists. ``error``: that item raises this
often. ``units``: every item measures so many units and stores them. ``pause_s``: how long a unit, or an item without,
takes. ``partial``: every item writes a file of that name into a folder of its own in the job's partial results; ``let_go``: it
says that it needs it no more. ``writes``: artifact -> bytes. ``die``: see `Fate`. Every run is noted in ``<home>/runs.log`` as
``begin|end <stage>/<item> <attempt>``, every unit as ``measure|stored <unit> <attempt>``; names begin with
``request["salt"]:`` where there is one.

A result holds the hash of all that the item could know, so equal results mean equal histories.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import types
from collections import Counter
from typing import Any

from allocator.base.errors import InvalidInput, StoreUnavailable
from allocator.base.settings import Settings
from allocator.stages.kinds import SEQUENCES
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.store import Store

_GIVE_UP_S = 60.0


def _told(job: JobView, name: str, default: Any) -> Any:
    return (job.request.model_extra or {}).get(name, default)


class Scripted:
    """One stage."""

    def __init__(self, name: str) -> None:
        self.name = name

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        script = _told(job, "script", {}).get(self.name, {})
        if script.get("items_error") == "invalid":
            raise InvalidInput(f"{self.name} cannot list its items")
        if script.get("items_error"):
            raise ZeroDivisionError
        return [ItemSpec(f"{self.name}-{n}", {"n": n}) for n in range(script.get("items", 1))]

    def run(self, context: StageContext) -> dict[str, Any]:
        script = _told(context.job, "script", {}).get(self.name, {})
        salt = _told(context.job, "salt", "")
        salt = f"{salt}:" if salt else ""
        name, fate = f"{salt}{self.name}/{context.item_key}", Fate(context, script.get("die"))
        note(context.settings, "begin", name, context.attempt)
        fate.reach("begin")
        error = script.get("error", {})
        if error.get("item") == context.item_key and context.attempt <= error.get("times", 10**6):
            if error["kind"] == "invalid":
                raise InvalidInput("this item is wrong")
            if error["kind"] == "outage":
                raise StoreUnavailable("the database went away for a moment")
            if error["kind"] == "exit":
                os._exit(1)
            raise ValueError("/a/path/that/must/not/be/shown")
        if script.get("gate") == context.item_key:
            gate, patience = context.settings.home / "gate", time.monotonic() + _GIVE_UP_S
            while not gate.exists() and time.monotonic() < patience:
                context.progress(1, 2, "steps")
                time.sleep(0.02)
        if "partial" in script:
            partial = context.partial_dir() / context.item_key
            partial.mkdir(exist_ok=True)
            (partial / script["partial"]).write_text(context.item_key)
            if script.get("let_go"):
                context.let_go(partial)
        units = _measure(context, script, name, fate)
        history = [[result["sum"] for result in results] for results in context.job.results.values()]
        known = json.dumps([self.name, context.item_key, history, units], sort_keys=True)
        result = {"item": context.item_key, "before": {k: len(v) for k, v in context.job.results.items()}}
        result["sum"] = hashlib.sha256(known.encode()).hexdigest()
        for artifact, size in script.get("writes", {}).items():
            folder = context.temporary_dir() / artifact
            folder.mkdir()
            with (folder / "weights.bin").open("wb") as file:
                fate.reach("writing")
                file.write(_bytes(result["sum"], size))
            fate.reach("before-publish")
            context.publish_artifact(folder, artifact)
            fate.reach("after-publish")
        if script.get("artifact"):
            folder = context.temporary_dir() / "folder"
            (folder / "inner").mkdir(parents=True)
            (folder / "inner" / "weights.bin").write_bytes(bytes(range(256)) * 40)
            context.publish_artifact(folder, "compact")
            (context.temporary_dir() / "report.json").write_text("{}")
            context.publish_artifact(context.temporary_dir() / "report.json", "report.json")
        context.progress(2, 2, "steps")
        context.event("test.ran", f"{context.item_key} ran")
        fate.reach("end")
        note(context.settings, "end", name, context.attempt)
        return result


class Fate:
    """Ends the process at a point of its item: ``{"at": point, "times": n, "item": key, "says": text}``.

    Points: begin, unit, writing, before-publish, between (the rename and the commit of an artifact), after-publish, end.
    The item's first ``times`` attempts die there by SIGKILL; ``item`` is the stage's first unless named; ``says`` is
    written to standard error before.
    """

    def __init__(self, context: StageContext, die: dict[str, Any] | None) -> None:
        doomed = die is not None and context.item_key == die.get("item", f"{context.item_key[:-2]}-0")
        self._at = (
            die["at"] if die is not None and doomed and context.attempt <= die.get("times", 1) else None
        )
        self._says = die.get("says", "") if die is not None else ""
        if self._at == "between":
            context.store.artifacts.add = lambda *_: self.reach("between")  # type: ignore[method-assign]

    def reach(self, point: str) -> None:
        if point == self._at:
            if self._says:
                print(self._says, file=sys.__stderr__, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def _measure(context: StageContext, script: dict[str, Any], name: str, fate: Fate) -> dict[str, Any]:
    """The payloads of an item's units, of which those that are stored are not measured again."""
    keys = [f"{name}/{n}" for n in range(script.get("units", 0))]
    known = context.store.units.get_many(context.job.team, keys)
    if not keys:
        _pause(context, script)
    for n, key in enumerate(keys):
        if key not in known:
            note(context.settings, "measure", key, context.attempt)
            fate.reach("unit")
            _pause(context, script)
            context.store.units.put(context.job.team, key, {"loss": n / 7})
            note(context.settings, "stored", key, context.attempt)
        context.progress(n + 1, len(keys) + 1, "units")
    stored = context.store.units.get_many(context.job.team, keys)
    return {key.rpartition(":")[2]: payload for key, payload in stored.items()}


def _pause(context: StageContext, script: dict[str, Any]) -> None:
    until = time.monotonic() + script.get("pause_s", 0.0)
    while (left := until - time.monotonic()) > 0:
        context.progress(0, 2, "steps")
        time.sleep(min(left, 0.05))


def _bytes(seed: str, size: int) -> bytes:
    return (bytes.fromhex(seed) * (size // 32 + 1))[:size]


def note(settings: Settings, what: str, item: str, attempt: int) -> None:
    """Append one line, in one write, so that several processes may do it."""
    with (settings.home / "runs.log").open("a") as file:
        file.write(f"{what} {item} {attempt}\n")


def runs(settings: Settings, what: str) -> Counter[str]:
    """How often each item began or ended."""
    log = settings.home / "runs.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(what))


STAGES = {name: Scripted(name) for name in SEQUENCES["compress"]}


def modules() -> dict[str, types.ModuleType]:
    """What stands in for the registry of stages, and for what the machinery asks of it besides."""
    stages, intermediate = (
        types.ModuleType(name) for name in ("allocator.stages.registry", "allocator.stages.intermediate")
    )
    stages.__dict__["STAGES"] = STAGES
    intermediate.__dict__["needed_folders"] = lambda job, settings: set()
    return {module.__name__: module for module in (stages, intermediate)}


def install() -> None:
    """For this process, for good: only in processes that a test has started."""
    sys.modules.update(modules())
