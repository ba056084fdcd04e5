"""What can be done with a plan from its page and from the workshop, what a job's page says of cost and end, and how an empty
installation begins; without a browser.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from api.app import create_app
from api.pages import outlook
from tests.support.jobs import items, run_to_end
from tests.support.profiles import small_profile
from tests.support.teams import bearer, token

HTML = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def client(settings: Settings, store: Store, tiny_model: str, scripted: None) -> TestClient:
    app = create_app(settings, store=store)
    return TestClient(app, "http://127.0.0.1", follow_redirects=False, headers=HTML)


@pytest.fixture
def profile(store: Store) -> Profile:
    """Of a model that the service has."""
    found = small_profile()
    found = found.replaced(model=found.model.replaced(reference="local:tiny"))
    store.profiles.put("default", found)
    return found


def _stored(store: Store, profile: Profile, team: str = "default") -> str:
    plan = plan_from_profile(profile, ["block_params=0.8"])
    store.plans.put(team, plan, created_by="me")
    return str(plan.digest)


def _fields(text: str, action: str) -> dict[str, str]:
    """Hidden and filled fields of the form with this action."""
    form = re.search(rf'<form method="post" action="{action}".*?</form>', text, re.DOTALL)
    assert form is not None
    return dict(re.findall(r'name="(\w+)"[^>]* value="([^"]*)"', form[0]))


def test_a_plan_s_page_leads_to_the_job_that_applies_it(
    client: TestClient, store: Store, profile: Profile
) -> None:
    digest = _stored(store, profile)
    fields = _fields(client.get(f"/plans/{digest}").text, "/jobs")
    assert (fields["plan"], fields["model"], fields["kind"]) == (digest, "local:tiny", "compress")
    answers = [client.post("/jobs", data={**fields, "export": ["compact"]}) for _ in range(2)]
    (job,) = store.jobs.find("default").items
    assert [answer.headers["location"] for answer in answers] == [f"/jobs/{job.id}"] * 2
    assert (job.kind, job.request["plan"], job.request["export"]) == ("compress", digest, ["compact"])
    assert job.request["budgets"] == ["block_params=0.8"]


def test_what_is_wrong_with_such_a_job_is_shown_in_a_form_that_keeps_the_plan(
    client: TestClient, store: Store, profile: Profile
) -> None:
    digest = _stored(store, profile)
    body = {"kind": "compress", "plan": digest, "model": "local:none", "export": ["padded"]}
    answer = client.post("/jobs", data=body)
    assert answer.status_code == 422
    fields = _fields(answer.text, "/jobs")
    assert 'id="wrong-model"' in answer.text
    assert fields["plan"] == digest
    assert re.findall(r'name="export" value="(\w+)" checked', answer.text) == ["padded"]
    assert re.search(r'<textarea name="budgets"[^>]*></textarea>', answer.text), "the plan brings them"
    assert store.jobs.find("default").items == []
    again = {**fields, "kind": "compress", "model": "local:tiny", "export": ["padded"]}
    assert client.post("/jobs", data=again).status_code == 303


def test_the_workshop_stores_the_plan_and_submits_its_job_once(
    client: TestClient, store: Store, profile: Profile
) -> None:
    page = client.get(f"/workshop?profile={profile.key}").text
    assert not re.findall(r'name="export" value="(\w+)"[^>]* checked', page), "the target decides"
    (once,) = re.findall(r'name="once" value="(\w+)"', page)
    form = {"profile": profile.key, "use": "block_params", "block_params": "0.7", "once": once}
    first, again = (client.post("/workshop/jobs", data={**form, "export": "compact"}) for _ in range(2))
    (job,) = store.jobs.find("default").items
    assert first.headers["location"] == again.headers["location"] == f"/jobs/{job.id}"
    wanted = plan_from_profile(profile, ["block_params=0.7"]).digest
    assert (job.request["plan"], job.request["export"]) == (wanted, ["compact"])
    assert store.plans.get("default", wanted).ranks
    other = client.post("/workshop/jobs", data={**form, "block_params": "0.6", "export": "compact"})
    assert other.headers["location"] != first.headers["location"]
    shared = client.post("/workshop/plans", data={**form, "then": "share"})
    assert shared.headers["location"] == f"/plans/{wanted}#share"


def test_exports_are_asked_of_what_writes_checkpoints_alone(client: TestClient, store: Store) -> None:
    fields = {"model": "local:tiny", "budgets": "params=0.8", "export": ["compact", "padded"]}
    for kind in ("compress", "plan", "profile"):
        assert client.post("/jobs", data=fields | {"kind": kind}).status_code == 303
    exports = {job.kind: job.request.get("export") for job in store.jobs.find("default").items}
    assert exports == {"compress": ["compact", "padded"], "plan": None, "profile": None}


def test_a_profile_of_a_model_that_is_not_here_says_so(client: TestClient, store: Store) -> None:
    store.profiles.put("default", small_profile())
    answer = client.post("/workshop/jobs", data={"profile": "small", "block_params": "0.7"})
    assert answer.status_code == 422
    assert 'id="wrong-model"' in answer.text


def test_a_plan_is_shared_from_its_page_by_who_owns_it_and_may(
    settings: Settings, store: Store, profile: Profile, scripted: None, tiny_model: str
) -> None:
    store.profiles.put("red", profile)
    digest = _stored(store, profile, "red")
    ada, rita = token(store, "red"), token(store, "red", "rita", "read")
    bob = token(store, "blue", "bob")
    app = create_app(settings, store=store)
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as client:

        def page(secret: str) -> Any:
            return client.get(f"/plans/{digest}", headers=HTML | bearer(secret))

        assert page(bob).status_code == 404
        assert "<form" not in page(rita).text
        fields = _fields(page(ada).text, "/team/shares")
        form = fields | {"with_team": "blue"}
        assert client.post("/team/shares", data=form, headers=HTML | bearer(rita)).status_code == 403
        back = form | {"with_team": "red"}
        assert client.post("/team/shares", data=back, headers=HTML | bearer(bob)).status_code == 404
        done = client.post("/team/shares", data=form, headers=HTML | bearer(ada))
        assert (done.status_code, done.headers["location"]) == (303, f"/plans/{digest}#share")
        assert "Shared with <strong>blue</strong>" in page(ada).text
        seen = page(bob)
        assert seen.status_code == 200
        assert "/team/shares" not in seen.text, "it is not his to share"
        assert "Compress with this" in seen.text
        for goal in ("//evil.example", "https://evil.example/"):
            away = client.post("/team/shares", data=form | {"next": goal}, headers=HTML | bearer(ada))
            assert away.headers["location"] == "/"
        for path in ("/workshop/jobs", "/jobs", "/workshop/plans"):
            body = {"profile": profile.key, "kind": "compress", "plan": digest, "model": "local:tiny"}
            assert client.post(path, data=body, headers=HTML | bearer(rita)).status_code == 403
            foreign = HTML | bearer(ada) | {"Sec-Fetch-Site": "cross-site"}
            assert client.post(path, data=body, headers=foreign).status_code == 403
        assert client.post("/workshop/jobs", data=body, headers=HTML | bearer(bob)).status_code == 404
    assert store.jobs.find("red").items == store.jobs.find("blue").items == []


def test_an_empty_installation_offers_the_example_model(settings: Settings, store: Store) -> None:
    settings = settings.model_copy(update={"model_roots": Settings().model_roots})
    with TestClient(create_app(settings, store=store), "http://127.0.0.1", headers=HTML) as client:
        page = client.get("/").text
        fields = _fields(page, "/jobs")
        assert (fields["model"], fields["budgets"]) == (
            "local:pylm-llama",
            "block_params=0.8\nkv_bytes_per_token=0.75",
        )
        done = client.post("/jobs", data=fields, follow_redirects=False)
        (job,) = store.jobs.find("default").items
        assert done.headers["location"] == f"/jobs/{job.id}"
        assert job.request["budgets"] == ["block_params=0.8", "kv_bytes_per_token=0.75"]
        later = client.get("/").text
    assert 'id="welcome" hidden' in later
    assert 'id="welcome">' in page


def test_without_the_example_an_empty_installation_says_where_models_come_from(
    client: TestClient, settings: Settings, tiny_model: str
) -> None:
    page = client.get("/").text
    assert "Try the example model" not in page
    assert "<code>local:tiny</code>" in page
    for file in (settings.model_roots[0] / "tiny").iterdir():
        file.unlink()
    assert "There is no model in the folders" in client.get("/").text
    assert str(settings.home) not in page, "folders of the server are nobody's business"


def test_a_job_s_page_says_what_it_costs_and_when_its_stage_ends(
    client: TestClient, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"kind": "profile", "model": "local:tiny"}
    job_id = client.post("/v1/jobs", json=body).json()["id"]

    def said(what: str) -> str:
        found = re.search(rf'id="{what}"(?: hidden)?>(.*?)</', client.get(f"/jobs/{job_id}").text, re.DOTALL)
        assert found is not None
        return found[1]

    assert (said("cost"), said("counts")) == ("", "prepare: 0 of 1 items")
    message = "profile to make: 30 cuts on 4,096 to 8,192 tokens each: 1.5 to 3.0 forward passes"
    store.events.append(job_id, "profile.cost", message, {"forward_equivalents": [1.5, 3.0]})
    assert said("cost").strip() == f"P{message[1:]}."
    (item,) = items(store, job_id)
    taken = Executor(store, settings).claim(item.id)
    assert taken is not None
    store.items.renew(taken.id, taken.attempt, 60.0, (40, 100, "windows"))
    began = time.time()
    now = began + 200
    store.events.append(job_id, "profile.cost", "profile to make: told again", {})
    monkeypatch.setattr(outlook.time, "time", lambda: now)
    stages = "calibrate, surroundings, profile, assemble"
    counts = said("counts")
    # 40 % in 200 s: 300 s to go.
    found = re.fullmatch(
        rf"prepare: 40 of 100 windows, 3:20 elapsed, about 5:00 left, until about (\d\d:\d\d) UTC; then {stages}",
        counts,
    )
    assert found is not None, counts
    ends = datetime.now(UTC) + timedelta(seconds=300)
    assert found[1] in {(ends + timedelta(seconds=s)).strftime("%H:%M") for s in (-10, 0, 10)}
    now = began + 260  # nothing new is known: it counts down
    assert "4:20 elapsed, about 4:00 left" in said("counts")


def test_what_the_last_such_job_took_is_said_of_the_next(
    client: TestClient, store: Store, settings: Settings
) -> None:
    body = {"kind": "profile", "model": "local:tiny"}
    first = client.post("/v1/jobs", json=body).json()["id"]
    assert run_to_end(store, Executor(store, settings), first) == "succeeded"
    assert "It took 0:0" in client.get(f"/jobs/{first}").text
    second, other = (
        client.post("/v1/jobs", json=body | more).json()["id"] for more in ({}, {"effort": "fast"})
    )
    assert "The last profile job of this model took 0:0" in client.get(f"/jobs/{second}").text
    assert "The last profile job" not in client.get(f"/jobs/{other}").text


def test_the_example_is_a_model_that_the_package_brings() -> None:
    from api.web import example

    (folder,) = Settings().model_roots
    for name in example.MODELS:
        assert Path(folder / name.removeprefix("local:") / "config.json").is_file()
