"""A store of its own, and real jobs that run in this process to their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocator.base.settings import Settings
from allocator.jobs.inline import run_inline
from allocator.plan.documents.profile import Profile
from allocator.stages.sources import PATH
from allocator.store import Job, Store
from tests.support.jobs import new_job

WINDOW = 64
"""A quarter of the longest window, so that four times as many stand for as many tokens."""
BUDGETS = ["block_params=0.8"]


@dataclass
class Home:
    """A store of its own and jobs run in this process."""

    settings: Settings
    store: Store

    def run(self, model: Path, kind: str = "profile", team: str = "default", **request: Any) -> Job:
        """A job to its end, which must be a good one."""
        job_id = new_job(
            self.store,
            self.settings,
            kind,
            {"model": f"{PATH}{model}", "solver": "a3", **request},
            team=team,
            inline=True,
        )
        run_inline(self.store, self.settings, job_id, lambda job, events: None)
        job = self.store.jobs.get(team, job_id)
        assert job.state == "succeeded", (job.error or {}).get("detail")
        return job

    def profile(self, job: Job) -> Profile:
        assert job.profile_key is not None
        return self.store.profiles.get(job.team, job.profile_key)

    def counts(self, job: Job) -> dict[str, int]:
        """Units measured, units that were there already, and passes of calibration."""
        results = self.store.items.results(job.id)
        layers = results.get("profile", [])
        return {
            "measured": sum(result["measured"] for result in layers),
            "again": sum(result["measured_before"] for result in layers),
            "calibrated": len(results.get("calibrate", [])),
        }


@contextmanager
def opened_home(folder: Path) -> Iterator[Home]:
    settings = Settings(home=folder, threads=1)
    store = Store.open(settings, create=True)
    try:
        yield Home(settings, store)
    finally:
        store.close()
