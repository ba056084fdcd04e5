"""Ranks and weight bits over REST: asked for, refused by field, planned from a stored profile, shown."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from api.client import Client
from tests.support import command
from tests.support.live import served
from tests.support.plans import ranks_of
from tests.support.profiles import quantized_profile

JOB = {"kind": "compress", "model": "local:tiny", "bits": [8, 4], "budgets": ["memory=0.5@context=64"]}
TIGHT = ["memory=0.4@context=64"]
HALF = {"min_rank": ["0.5"]}


@pytest.fixture
def profile(store: Store) -> Profile:
    found = quantized_profile()
    store.profiles.put("default", found)
    return found


def test_a_job_keeps_the_bits_that_it_asks_for(client: TestClient, tiny_model: str) -> None:
    for job in (JOB, {"kind": "profile", "model": "local:tiny", "bits": [4]}):
        answer = client.post("/v1/jobs", json=job)
        assert answer.status_code == 202, answer.text
        assert answer.json()["request"]["bits"] == job["bits"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"refine": 1}, "refine"),
        ({"heal": 1}, "heal"),
        ({"budgets": ["params=0.5"]}, "bits"),
        ({"bits": [3]}, "bits[0]"),
        ({"bits": []}, "bits"),
        ({"bits": "8,4"}, "bits"),
        ({"kind": "transfer", "budgets": []}, "bits"),
        ({"kind": "profile", "around": "abcdef", "budgets": []}, "around"),
        ({"plan": "abcdef", "budgets": []}, "bits"),
    ],
)
def test_what_does_not_go_with_bits_is_named(
    client: TestClient, tiny_model: str, change: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/jobs", json={**JOB, **change})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"].endswith(field)


def test_a_plan_uses_the_bits_of_its_profile_or_fewer(client: TestClient, profile: Profile) -> None:
    body = {"profile_key": profile.key, "budgets": TIGHT}
    both, eight = (client.post("/v1/plans", json={**body, **given}).json() for given in ({}, {"bits": [8]}))
    assert both["bits"] == [8, 4]
    assert eight["bits"] == [8]
    assert ranks_of(both["ranks"]).bits
    none = client.post("/v1/plans", json={**body, "bits": [], "constraints": HALF})
    assert (none.status_code, none.json()["code"]) == (422, "budget_infeasible")
    explained = client.get(f"/v1/plans/{both['digest']}/explanation").json()["components"]
    told = {(row["layer"], row["component"]): row["bits"] for row in explained}
    assert {row["qk"] for row in (each.get("bits", {}) for each in both["ranks"]) if "qk" in row} <= {8, 4}
    assert told[0, "mlp"] == both["ranks"][0].get("bits", {}).get("mlp")
    diff = client.get(f"/v1/plans/{both['digest']}/diff/{eight['digest']}").json()
    assert any(change["from_bits"] != change["to_bits"] for change in diff["changes"])


FRONTIER = {"metric": ["memory@context=64"], "points": 4}


@pytest.mark.parametrize(("query", "bits"), [([], None), (["8"], [8]), (["4", "8"], [8, 4]), (["none"], [])])
def test_a_frontier_uses_the_bits_of_its_profile_or_fewer(
    client: TestClient, profile: Profile, query: list[str], bits: list[int] | None
) -> None:
    url = f"/v1/profiles/{profile.key}/frontier"
    found = client.get(url, params={**FRONTIER, "bits": query}).json()
    assert found["bits"] == ([8, 4] if bits is None else bits)
    # Every point is the plan of its limit under the same bits.
    for point in found["points"]:
        budgets = [f"memory={point['limits'][0]}@context=64"]
        plan = plan_from_profile(profile, budgets, bits=bits)
        assert point["loss_nats"] == pytest.approx(plan.predicted.loss_nats, rel=1e-4, abs=1e-12)


def test_a_frontier_refuses_bits_that_there_are_not(client: TestClient, profile: Profile) -> None:
    url = f"/v1/profiles/{profile.key}/frontier"
    for bits in (["3"], ["none", "8"]):
        answer = client.get(url, params={**FRONTIER, "bits": bits})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"].startswith(("bits", "query.bits")), answer.text
    with_none = client.get(url, params={**FRONTIER, "bits": "none"}).json()
    assert with_none["points"][0]["limits"] > client.get(url, params=FRONTIER).json()["points"][0]["limits"]


def test_the_command_and_the_client_give_a_frontier_bits_too(
    client: TestClient,
    store: Store,
    settings: Settings,
    profile: Profile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = client.get(f"/v1/profiles/{profile.key}/frontier", params={**FRONTIER, "bits": "8"}).json()
    options = ("--metric", "memory@context=64", "--points", "4", "--json")
    run = partial(command.run, capsys, monkeypatch, settings.home, "frontier", profile.key, *options)
    code, printed, shown = run("--bits", "8")
    assert code == 0, shown
    assert json.loads(printed) == wanted
    assert run("--bits", "3")[0] == 2
    with served(settings, store) as url, Client(url) as remote:
        frontiers = [
            remote.profiles.frontier(profile.key, FRONTIER["metric"], points=4, bits=bits)
            for bits in ([8], [])
        ]
    assert frontiers[0].document == wanted
    assert frontiers[1].bits == ()


def test_a_transfer_from_quantized_cuts_is_refused(
    client: TestClient, profile: Profile, tiny_model: str
) -> None:
    job = {"kind": "transfer", "model": "local:tiny", "profile": profile.key}
    answer = client.post("/v1/jobs", json=job)
    assert answer.status_code == 422
    assert "has quantized cuts, which no probe compares" in answer.json()["detail"]


def test_a_plan_with_bits_is_not_healed_when_it_is_applied(
    client: TestClient, store: Store, profile: Profile, tiny_model: str
) -> None:
    plan = plan_from_profile(profile, TIGHT)
    store.plans.put("default", plan, created_by="me")
    job = {"kind": "compress", "model": "local:tiny", "plan": plan.digest}
    assert client.post("/v1/jobs", json=job).status_code == 202
    answer = client.post("/v1/jobs", json={**job, "heal": 10})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "heal"


def test_pages_show_bits_and_do_without_uniform_ranks(
    client: TestClient, store: Store, profile: Profile, tiny_model: str
) -> None:
    html = {"Accept": "text/html"}
    wide = plan_from_profile(profile, ["memory=0.9@context=64"])
    tight = plan_from_profile(profile, ["memory=0.5@context=64"], constraints=HALF)
    assert "uniform" not in tight.baseline
    for plan in (wide, tight):
        store.plans.put("default", plan, created_by="me")
    shown = client.get(f"/plans/{tight.digest}", headers=html)
    assert shown.status_code == 200, shown.text
    assert "@4</span>" in shown.text
    assert "uniform ranks and bits" in shown.text
    diff = client.get(f"/plans/{wide.digest}/diff/{tight.digest}", headers=html)
    assert diff.status_code == 200, diff.text
    assert " @4</td>" in diff.text
    assert client.get(f"/workshop?profile={profile.key}", headers=html).status_code == 200
