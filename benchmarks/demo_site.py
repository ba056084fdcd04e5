"""The demo's store behind its pages, and a browser to look at them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser

from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support import browser
from tests.support.web import served

TEAM = "default"
MODEL = "local:pylm-llama"


@dataclass(frozen=True)
class DemoSite:
    """Where it is served, and what it shows of the first example model."""

    url: str
    browser: Browser
    profile: str
    job: str
    plans: list[str]
    """Newest first."""


@contextmanager
def demo_site(home: Path | None) -> Iterator[DemoSite]:
    """The pages over the store in ``home``, where ``rankalloc demo`` has run; None: it is run first, into a folder of its
    own.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=home or Path(folder))
        if home is None:
            sys.stderr.write(">> rankalloc demo, a few minutes\n")
            environment = {**os.environ, "RANKALLOC_HOME": folder}
            command = [sys.executable, "-m", "api.cli", "demo", "--json"]
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        store = Store.open(settings, create=True)
        try:
            app = create_app(settings, store=store)
            with served(app) as url, browser.launched() as running:
                yield _site(store, url, running)
        finally:
            store.close()


def _site(store: Store, url: str, running: Browser) -> DemoSite:
    profiles = store.profiles.find(TEAM, model=MODEL).items
    jobs = [job for job in store.jobs.find(TEAM, model=MODEL).items if job.kind == "compress"]
    plans = store.plans.find(TEAM, model=MODEL).items
    return DemoSite(url, running, profiles[0]["key"], jobs[0].id, [plan["digest"] for plan in plans])
