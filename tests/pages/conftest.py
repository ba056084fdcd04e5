"""A browser that forbids itself errors, and the application it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from api.app import create_app
from tests.support import browser as browsers
from tests.support.profiles import measured_profile
from tests.support.web import served

_PATIENCE_MS = 30_000


@dataclass(frozen=True)
class Site:
    """What is served, and where."""

    url: str
    store: Store
    settings: Settings
    profile: Profile
    plans: list[str]
    """Digests of two plans made from the profile."""

    def pages(self) -> list[str]:
        """The address of every kind of page that needs no job."""
        key, (a, b) = self.profile.key, self.plans
        return [
            *("/", "/profiles", f"/profiles/{key}", "/workshop", f"/workshop?profile={key}"),
            *("/plans", f"/plans/{a}", f"/plans/{a}/diff/{b}", "/team", "/login"),
        ]


@pytest.fixture
def site(settings: Settings, store: Store, tiny_model: str, scripted: None) -> Iterator[Site]:
    """A store with a profile and two plans behind a server."""
    profile = measured_profile()
    store.profiles.put("default", profile)
    digests = []
    for share in (0.8, 0.6):
        plan = plan_from_profile(profile, [f"block_params={share}"])
        store.plans.put("default", plan, created_by="me")
        digests.append(plan.digest)
    with served(create_app(settings, store=store)) as url:
        yield Site(url, store, settings, profile, digests)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.launched() as running:
        yield running


class Watch:
    """What went wrong in the pages of a context."""

    def __init__(self, context: BrowserContext, host: str) -> None:
        self.wrong: list[str] = []
        self._host = host
        context.on("console", lambda message: self._note(message.type, message.text))
        context.on("weberror", lambda error: self.wrong.append(f"uncaught: {error.error}"))
        context.on("dialog", lambda dialog: self.wrong.append(f"a dialog: {dialog.message}"))
        context.on("request", self._request)

    def _note(self, kind: str, text: str) -> None:
        # Chromium itself notes every answer that is a refusal, be it shown ever so well.
        refused = text.startswith("Failed to load resource") and "status of 422" in text
        if kind in ("error", "warning") and not refused:
            self.wrong.append(f"{kind}: {text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self._host and not request.url.startswith("data:"):
            self.wrong.append(f"another host: {request.url}")


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """Of which at the end nothing may have complained: no error, no violated policy, no other host, no dialog."""
    made = browser.new_context(base_url=site.url, permissions=["clipboard-read", "clipboard-write"])
    made.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    watch = Watch(made, urlsplit(site.url).netloc)
    yield made
    made.close()
    assert watch.wrong == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()
