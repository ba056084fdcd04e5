"""The service under a path of a real nginx, configured as the docs say: nothing leads out of the path."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from playwright.sync_api import expect

from allocator.base.settings import Settings
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from api.client import Client
from tests.support import browser, command
from tests.support.live import served, working
from tests.support.nginx import PREFIX, documented, nginx
from tests.support.processes import kill_group, start
from tests.support.profiles import measured_profile
from tests.support.teams import bearer, token

_PATIENCE_MS = 30_000
HTML = {"Accept": "text/html"}
LEFT_ON = """
location /rankalloc {
    proxy_pass http://127.0.0.1:8321;
    proxy_set_header Host $http_host;
}
"""
"""What a proxy does that leaves the path as it is and says nothing."""


@dataclass(frozen=True)
class Shown:
    """The service as nginx shows it, with a profile and two plans in its store."""

    url: str
    profile: str
    plans: tuple[str, str]
    secret: str


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    options = ("--port", "0", "--json", "--no-dispatch")  # jobs stay queued until they are cancelled
    process = start(settings, "-m", "api.cli", "serve", *options, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        told = "".join(line for line in iter(lambda: next(lines, "}"), "}\n"))
        yield str(json.loads(told + "}")["url"])
    finally:
        kill_group(process)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def _shown(settings: Settings, folder: Path, *, taken_off: bool, apart: bool) -> Iterator[Shown]:
    """``taken_off``: nginx as the docs have it; else it leaves the path, which the setting names. ``apart``: `rankalloc serve`,
    which only stores jobs; else the application and what a worker would do, in threads of this process.
    """
    if not taken_off:
        settings = settings.model_copy(update={"root_path": PREFIX})
    profile = measured_profile()
    plans = [plan_from_profile(profile, [f"block_params={share}"]) for share in (0.8, 0.6)]
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store.open(settings, create=True)))
        store.profiles.put("default", profile)
        for plan in plans:
            store.plans.put("default", plan, created_by="me")
        secret = token(store, "default", "ada", "submit")
        direct = stack.enter_context(_serving(settings) if apart else served(settings, store))
        if not apart:
            stack.enter_context(working(settings, store))
        location = (documented() if taken_off else LEFT_ON).replace("8321", str(urlsplit(direct).port))
        url = stack.enter_context(nginx(folder, location))
        yield Shown(url + PREFIX, profile.key, (plans[0].digest, plans[1].digest), secret)


@pytest.fixture(params=[True, False], ids=["taken-off", "left-on"])
def served_apart(
    request: pytest.FixtureRequest, settings: Settings, tiny_model: str, tmp_path: Path
) -> Iterator[Shown]:
    with _shown(settings, tmp_path / "nginx", taken_off=request.param, apart=True) as found:
        yield found


@pytest.fixture(params=[True, False], ids=["taken-off", "left-on"])
def shown(
    request: pytest.FixtureRequest, settings: Settings, tiny_model: str, scripted: None, tmp_path: Path
) -> Iterator[Shown]:
    with _shown(settings, tmp_path / "nginx", taken_off=request.param, apart=False) as found:
        yield found


def _links(text: str) -> set[str]:
    return {html.unescape(found) for found in re.findall(r'\b(?:href|action|formaction|src)="([^"]+)"', text)}


def test_every_address_of_pages_and_answers_is_under_the_path(served_apart: Shown) -> None:
    shown = served_apart
    with httpx.Client(headers=bearer(shown.secret), timeout=30) as client:
        body = {"kind": "profile", "model": "local:tiny"}
        made = client.post(f"{shown.url}/v1/jobs", json=body)
        assert made.status_code == 202, made.text
        job = made.headers["location"]
        assert job == f"{PREFIX}/v1/jobs/{made.json()['id']}"
        ended = client.post(urljoin(shown.url, made.json()["links"]["cancel"]))
        assert (ended.status_code, ended.json()["state"]) == (202, "cancelled"), ended.text
        with client.stream("GET", urljoin(shown.url, made.json()["links"]["stream"])) as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            assert "event: job.cancelled" in list(events.iter_lines())
        for name, link in client.get(urljoin(shown.url, job)).json()["links"].items():
            assert link.startswith(f"{PREFIX}/v1/"), name
        (server,) = client.get(f"{shown.url}/openapi.json").json()["servers"]
        assert server["url"] == PREFIX
        saved = client.get(f"{shown.url}/v1/plans/{shown.plans[0][:12]}")
        assert saved.headers["content-location"] == f"{PREFIX}/v1/plans/{shown.plans[0]}"
        lost = client.get(f"{shown.url}/v1/jobs/none").json()
        assert lost["instance"] == f"{PREFIX}/v1/jobs/none"

        a, b = shown.plans
        seen, todo = set[str](), {f"{PREFIX}/", f"{PREFIX}/plans/{a}/diff/{b}", f"{PREFIX}/nothing-here"}
        while todo:
            path = todo.pop()
            seen.add(path)
            answer = client.get(urljoin(shown.url, path), headers=HTML, follow_redirects=False)
            missing = path.endswith("nothing-here")
            # Forms that are posted answer 405, and the one that compares wants to know which.
            assert answer.status_code in ((404,) if missing else (200, 303, 405, 422)), path
            assert answer.text != "outside of the service", path
            if "location" in answer.headers:
                todo |= {answer.headers["location"]} - seen
            if not answer.headers["content-type"].startswith("text/html"):
                continue
            for link in _links(answer.text):
                if not link.startswith(("#", "data:")):
                    there = urlsplit(urljoin(f"http://host{path}", link))
                    assert there.netloc == "host"
                    assert (there.path + "/").startswith(f"{PREFIX}/"), (path, link)
                    todo |= {there._replace(scheme="", netloc="", fragment="").geturl()} - seen
    rooms = (
        "",
        "profiles",
        "workshop",
        "plans",
        "team",
        f"profiles/{shown.profile}",
        f"plans/{b}",
        "openapi.json",
    )
    assert {f"{PREFIX}/{room}" for room in rooms} <= seen
    assert any(path.startswith(f"{PREFIX}/jobs/") for path in seen)
    assert any(path.endswith(".css") for path in seen)


def test_who_logs_in_is_led_back_and_his_cookie_stays_under_the_path(shown: Shown) -> None:
    with httpx.Client(headers={**HTML, "Sec-Fetch-Site": "same-origin"}) as client:
        asked = client.get(f"{shown.url}/plans?model=local:tiny")
        assert asked.status_code == 303
        assert asked.headers["location"].startswith(f"{PREFIX}/login?next=")
        page = client.get(urljoin(shown.url, asked.headers["location"])).text
        (goal,) = re.findall(r'name="next" value="([^"]*)"', page)
        form = {"token": shown.secret, "next": html.unescape(goal)}
        entered = client.post(f"{shown.url}/login", data=form)
        assert (entered.status_code, entered.headers["location"]) == (303, f"{PREFIX}/plans?model=local:tiny")
        assert f"Path={PREFIX};" in entered.headers["set-cookie"]
        assert client.get(f"{shown.url}/plans").status_code == 200
        job = client.post(f"{shown.url}/jobs", data={"kind": "profile", "model": "local:tiny"})
        assert (job.status_code, job.headers["location"].rpartition("/")[0]) == (303, f"{PREFIX}/jobs")
        left = client.post(f"{shown.url}/logout")
        assert left.headers["location"] == f"{PREFIX}/login"
        assert client.get(f"{shown.url}/plans").status_code == 303


def test_clients_take_the_whole_address(
    shown: Shown, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(shown.url, token=shown.secret) as client:
        job = client.jobs.submit("profile", "local:tiny")
        assert client.jobs.wait(job.id).state == "succeeded"
        assert client.plans.get(shown.plans[0])["digest"] == shown.plans[0]
        assert [each.key for each in client.profiles.find()] == [shown.profile]
    monkeypatch.setenv("RANKALLOC_SERVER", f"{shown.url}/")
    monkeypatch.setenv("RANKALLOC_TOKEN", shown.secret)
    run = partial(command.run, capsys, monkeypatch, tmp_path / "elsewhere")
    code, out, err = run("plan", shown.profile, "--budget", "block_params=0.7", "--json")
    assert code == 0, err
    assert json.loads(out)["profile_key"] == shown.profile
    code, _, err = run("jobs", "submit", "profile", "local:tiny", "--wait")
    assert code == 0, err


@pytest.mark.parametrize("shown", [True], indirect=True, ids=["taken-off"])
def test_the_pages_work_in_a_browser(shown: Shown) -> None:
    with browser.launched() as running:
        expect.set_options(timeout=_PATIENCE_MS)
        page = running.new_page()
        outside: list[str] = []
        page.on("response", lambda answer: outside.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"{shown.url}/workshop?profile={shown.profile}")
        page.get_by_label("Token").fill(shown.secret)
        page.get_by_role("button", name="Log in").click()
        page.locator("[data-for=block_params]").fill("0.55")
        expect(page.locator(".budgets th code")).to_have_text("block_params=0.55")
        expect(page.locator("#frontier svg")).to_be_visible()
        expect(page.locator("#rest")).to_contain_text(f"{shown.url}/v1/plans")
        assert page.url.startswith(f"{shown.url}/workshop?")
        page.get_by_role("button", name="Save the plan").click()
        expect(page.get_by_role("heading", name="What is proved")).to_be_visible()
        page.get_by_role("link", name="Jobs").click()
        page.get_by_label("Budgets, one a line").fill("params=0.8")
        page.get_by_role("button", name="Submit the job").click()
        expect(page.locator("#state")).to_have_text("succeeded")
        page.get_by_role("link", name="Jobs").click()
        with page.expect_response(f"{shown.url}/"):
            pass  # the list asks anew
        expect(page.locator("#jobs tr")).to_have_count(1)
        assert outside == []
