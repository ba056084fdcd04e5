"""The workshop without a browser: what its form carries, what its answer says."""

from __future__ import annotations

import html
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.plan.frontier import frontier_of
from allocator.plan.planning import plan_from_profile
from allocator.report.figures.frontier import frontier
from allocator.report.units import nats
from allocator.store import Store
from api.app import create_app
from tests.support.latency import table
from tests.support.profiles import measured_profile, quantized_profile

LATENCY = "latency=0.8@batch=1,context=64,phase=decode"
HALF = {"min_rank": ["0.5"], "pin": ["0.qk=dense"]}


@pytest.fixture
def client(settings: Settings, store: Store, scripted: None) -> TestClient:
    return TestClient(create_app(settings, store=store), "http://127.0.0.1", follow_redirects=False)


class Form(HTMLParser):
    """What a browser would send of a page's workshop form."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sent: dict[str, list[str]] = {}
        self._select, self._first = "", False
        self.feed(text.partition('<form id="workshop"')[2].partition("</form>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "input" and given.get("name") and (given.get("type") != "checkbox" or "checked" in given):
            self.sent.setdefault(str(given["name"]), []).append(given.get("value") or "")
        if tag == "select":
            self._select, self._first = str(given["name"]), True
        if tag == "option" and self._select:
            self._chosen = self._first or "selected" in given
            self._value = given.get("value")
            self._first = False
            if self._chosen and self._value is not None:
                self.sent[self._select] = [self._value]

    def handle_data(self, data: str) -> None:
        if self._select and self._value is None and self._chosen:
            self.sent[self._select] = [data]
            self._chosen = False

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""


def _opened(client: TestClient, digest: str) -> str:
    """The workshop's page, as the plan's page leads to it."""
    link = re.search(r'href="(/workshop\?[^"]+)"', client.get(f"/plans/{digest}").text)
    assert link is not None
    answer = client.get(html.unescape(link[1]))
    assert answer.status_code == 200, answer.text
    return answer.text


def _command(page: str, name: str) -> list[str]:
    found = re.search(rf'<pre id="{name}"[^>]*>([^<]+)<', page)
    assert found is not None
    return shlex.split(html.unescape(found[1]))


@pytest.mark.parametrize(
    ("budgets", "given"),
    [
        (["memory=0.6@batch=1,context=512,weights=int8,cache=fp8"], {}),
        (["kv_bytes_per_token=0.5@cache=fp8"], {}),
        ([LATENCY], {}),
        (["memory=0.8@batch=1,context=512", "memory=0.7@batch=4,context=64"], {}),
        (["params=0.8", LATENCY, "kv_bytes_per_token=0.9", "kv_bytes_per_token=0.5@cache=int8"], {}),
        (["memory=200KiB@context=64"], {"constraints": HALF}),
        (["flops_per_token=0.8"], {"constraints": {"pin": [f"{n % 2}.mlp=0.9{n:038d}" for n in range(60)]}}),
        (["block_params=0.7"], {"allocation": "uniform"}),
    ],
)
def test_a_plan_opens_as_the_question_that_it_answers(
    client: TestClient, store: Store, budgets: list[str], given: dict[str, Any]
) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    plan = plan_from_profile(profile, budgets, latency=table(), **given)
    store.plans.put("default", plan, created_by="me")
    page = _opened(client, plan.digest)
    assert (f'value="{LATENCY}" checked' in page) == (LATENCY in budgets)
    if "allocation" not in given:
        assert "--bits" not in _command(page, "cli"), "the profile has none"
    saved = client.post("/workshop/plans", data=Form(page).sent)
    assert (saved.status_code, saved.headers["location"]) == (303, f"/plans/{plan.digest}")


@pytest.mark.parametrize("bits", [None, [8, 4], [8], []])
def test_the_bits_of_a_plan_stay(client: TestClient, store: Store, bits: list[int] | None) -> None:
    profile = quantized_profile()
    store.profiles.put("default", profile)
    plan = plan_from_profile(profile, ["memory=0.7@context=64"], bits=bits)
    store.plans.put("default", plan, created_by="me")
    page = _opened(client, plan.digest)
    saved = client.post("/workshop/plans", data=Form(page).sent)
    assert saved.headers["location"] == f"/plans/{plan.digest}"
    words = _command(page, "cli")
    assert words[words.index("--bits") + 1] == (",".join(map(str, plan.bits)) or "none")


def test_a_latency_budget_is_not_asked_without_its_table(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    query = {"profile": profile.key, "use": "latency", "latency": "0.8"}
    for fields in (query, {"profile": profile.key, "budget": LATENCY}):
        answer = client.get("/workshop", params=fields).text
        assert 'id="problem"' in answer
        assert "latency" in answer
        assert 'id="loss"' not in answer


def test_no_budget_is_not_the_default_one(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    address = {"profile": profile.key}
    assert "block_params=0.8" in client.get("/workshop/answer", params=address).text
    answer = client.get("/workshop/answer", params={**address, "use": "none", "block_params": "0.8"}).text
    assert "at least one budget is needed" in answer
    assert client.post("/workshop/plans", data={**address, "use": "none"}).status_code == 422


def test_every_way_out_can_be_met(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    query = {"profile": profile.key, "use": ["block_params", "memory"], "block_params": "0.01"}
    query |= {"memory": "4", "budget": "kv_bytes_per_token=0.001@cache=int8", "min_rank": "0.5"}
    for _ in range(3):
        answer = client.get("/workshop/answer", params=query).text
        way = re.search(r'href="/workshop\?([^"]+)">Raise to', answer)
        assert way is not None
        query = html.unescape(way[1])  # type: ignore[assignment]
    assert 'id="loss"' in client.get(f"/workshop/answer?{query}").text


def test_fields_that_no_plan_takes_are_named(client: TestClient, store: Store) -> None:
    profile = quantized_profile()
    store.profiles.put("default", profile)
    for wrong, said in (
        ({"bits": "3"}, "bits[0]"),
        ({"bits": "8" * 5000}, "bits[0]"),
        ({"allocation": "magic"}, "allocation"),
        ({"use": "speed", "speed": "0.5"}, "speed=0.5"),
        ({"pin": "0.mlp=" + "9" * 200}, "constraints.pin[0]"),
        ({"use": "memory", "memory_batch": "many"}, "batch must be a whole number"),
    ):
        answer = client.get("/workshop", params={"profile": profile.key, **wrong})
        assert answer.status_code == 200
        assert 'id="problem"' in answer.text
        assert said in answer.text


def test_the_rest_command_makes_the_same_plan(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    store.latency_tables.put("default", table(), created_by="me")
    plan = plan_from_profile(profile, [LATENCY, "params=0.9"], latency=table(), constraints=HALF)
    store.plans.put("default", plan, created_by="me")
    made = client.post("/v1/plans", json=json.loads(_command(_opened(client, plan.digest), "rest")[-1]))
    assert made.json()["digest"] == plan.digest


def test_the_frontier_asks_all_else_as_the_form_does(client: TestClient, store: Store) -> None:
    profile = quantized_profile()
    store.profiles.put("default", profile)
    plan = plan_from_profile(profile, ["params=0.9", LATENCY], latency=table(), constraints=HALF, bits=[])
    store.plans.put("default", plan, created_by="me")
    query: dict[str, Any] = {
        "profile": profile.key,
        "budget": ["params=0.9", LATENCY],
        "times": plan.digest,
    }
    query |= {"bits": "none", "min_rank": "0.5", "pin": "0.qk=dense", "metric": "memory"}
    query |= {"memory_batch": "1", "memory_context": "64"}
    wanted = frontier_of(
        profile,
        ["memory@batch=1,context=64"],
        budgets=["params=0.9", LATENCY],
        constraints=HALF,
        latency=table(),
        bits=[],
        points=24,
    )
    part = client.get("/workshop/frontier", params=query)
    assert part.status_code == 200
    shown = re.findall(r'<th scope="row">([\d,]+)</th>\s*<td>([^<]+)</td>', part.text)
    assert shown == [(f"{each['limits'][0]:,}", nats(each["loss_nats"])) for each in wanted["points"]]
    picture = client.get("/workshop/frontier.svg", params=query)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/svg+xml")
    assert picture.text == frontier(wanted).svg()
    wrong = client.get("/workshop/frontier", params={**query, "memory_context": "many"})
    assert (wrong.status_code, "context must be a whole number" in wrong.text) == (200, True)
