"""Stages that do what the job's request tells them, for tests of the machinery. No option of the product
leads here.

``request["script"]`` maps a stage to what its items do; a stage that is not named has one item that just
succeeds::

    {"profile": {"items": 3, "gate": "profile-1", "error": {"kind": "ValueError", "item": "profile-0",
    "times": 2}}}

``gate``: that item reports progress until the file ``<home>/gate`` exists. ``error``: that item raises this
often. Every run is noted in ``<home>/runs.log`` as ``begin|end <stage>/<item> <attempt>``.
"""

from __future__ import annotations

import os
import sys
import time
import types
from collections import Counter
from typing import Any

from allocator.errors import InvalidInput, StoreUnavailable
from allocator.jobs.pipeline import SEQUENCES, ItemSpec, JobView, StageContext
from allocator.settings import Settings
from allocator.store import Store

_GIVE_UP_S = 60.0


class Scripted:
    """One stage."""

    def __init__(self, name: str) -> None:
        self.name = name

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        script = job.request.get("script", {}).get(self.name, {})
        if script.get("items_error") == "invalid":
            raise InvalidInput(f"{self.name} cannot list its items")
        if script.get("items_error"):
            raise ZeroDivisionError
        return [ItemSpec(f"{self.name}-{n}", {"n": n}) for n in range(script.get("items", 1))]

    def run(self, context: StageContext) -> dict[str, Any]:
        script = context.job.request.get("script", {}).get(self.name, {})
        note(context.settings, "begin", f"{self.name}/{context.item_key}", context.attempt)
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
        if script.get("artifact"):
            folder = context.temporary_dir() / "folder"
            (folder / "inner").mkdir(parents=True)
            (folder / "inner" / "weights.bin").write_bytes(bytes(range(256)) * 40)
            context.publish_artifact(folder, "compact")
            (context.temporary_dir() / "report.json").write_text("{}")
            context.publish_artifact(context.temporary_dir() / "report.json", "report.json")
        context.progress(2, 2, "steps")
        context.event("test.ran", f"{context.item_key} ran")
        note(context.settings, "end", f"{self.name}/{context.item_key}", context.attempt)
        return {"item": context.item_key, "before": {k: len(v) for k, v in context.job.results.items()}}


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


def module() -> types.ModuleType:
    """What stands in for ``allocator.jobs.stages``."""
    result = types.ModuleType("allocator.jobs.stages")
    result.__dict__["STAGES"] = STAGES
    return result


def install() -> None:
    """For this process, for good: only in processes that a test has started."""
    sys.modules["allocator.jobs.stages"] = module()
