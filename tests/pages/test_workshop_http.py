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
from allocator.plan.ask.budgets import parse_budget, parse_metric
from allocator.plan.ask.constraints import EXAMPLES, KINDS
from allocator.plan.documents.plan import Plan
from allocator.plan.frontier import frontier_of
from allocator.plan.inverse import minimize
from allocator.plan.metrics.kind import WORDS
from allocator.plan.metrics.metric import Metric
from allocator.plan.metrics.registry import METRICS
from allocator.plan.planning import plan_from_profile
from allocator.plan.targets.registry import TARGETS
from allocator.report.figures.frontier import frontier
from allocator.report.units import nats
from allocator.store import Store
from api.app import create_app
from tests.support.latency import table
from tests.support.profiles import measured_profile, quantized_profile

LATENCY = "latency=0.8@batch=1,context=64,phase=decode"
COUNTS = {"batch": [2], "context": [64, 96]}
"""Of options that are numbers."""
TIMED = {"batch": [1], "context": [64]}
"""What the table by hand has timed."""
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


def _labels(metric: str) -> list[str]:
    """The metric alone, with every option by itself at each of its values, and with all of them at once."""
    kind = METRICS[metric]
    known = {**COUNTS, **WORDS, **(TIMED if kind.timed else {})}
    values = {option: [str(each) for each in known[option]] for option in kind.options}
    plain = {option: values[option][0] for option in kind.needed}
    asked = [plain, *(plain | {option: each} for option in values for each in values[option])]
    asked.append({option: each[-1] for option, each in values.items()})
    written = [",".join(f"{option}={value}" for option, value in each.items()) for each in asked]
    return list(dict.fromkeys(f"{metric}@{options}" if options else metric for options in written))


def _alternatives(kind: str) -> list[str]:
    """Examples of a constraint that a model of two layers can take; all targets."""
    if kind == "target":
        return list(TARGETS)
    texts = re.split(", | or ", EXAMPLES[kind])
    return [re.sub(r"\b17\b", "1", text.replace("0-3", "0-1").replace("96", "8")) for text in texts]


def _asked(words: list[str]) -> set[Metric]:
    """What a shown command has budgets on."""
    return {parse_budget(words[n + 1]).metric for n, word in enumerate(words) if word == "--budget"}


def _comes_back(client: TestClient, store: Store, plan: Plan) -> str:
    """The workshop's page of a plan, whose form makes it again, as the shown REST body does."""
    store.plans.put("default", plan, created_by="me")
    page = _opened(client, plan.digest)
    saved = client.post("/workshop/plans", data=Form(page).sent)
    assert (saved.status_code, saved.headers.get("location")) == (303, f"/plans/{plan.digest}"), saved.text
    made = client.post("/v1/plans", json=json.loads(_command(page, "rest")[-1]))
    assert made.json()["digest"] == plan.digest
    return page


@pytest.mark.parametrize("metric", METRICS)
def test_every_option_of_a_metric_comes_back(client: TestClient, store: Store, metric: str) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    store.latency_tables.put("default", table(), created_by="me")
    budgets = [f"{metric}=0.8{label.removeprefix(metric)}" for label in _labels(metric)]
    for budget in budgets if METRICS[metric].timed else (METRICS[metric].example, *budgets):
        plan = plan_from_profile(profile, [budget], latency=table())
        words = _command(_comes_back(client, store, plan), "cli")
        assert _asked(words) == {parse_budget(budget).metric}


@pytest.mark.parametrize("metric", METRICS)
def test_the_least_of_a_metric_comes_back(client: TestClient, store: Store, metric: str) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    store.latency_tables.put("default", table(), created_by="me")
    first, last = _labels(metric)[0], _labels(metric)[-1]
    questions = [(last, ["params=0.99", "memory=0.99@context=32"])]
    if metric == "kv_bytes_per_token":
        questions.append((first, []))
    for label, budgets in questions:
        budgets = [text for text in budgets if parse_budget(text).metric != parse_metric(label)]
        plan = minimize(profile, label, max_loss_nats=0.4375, budgets=budgets, latency=table())
        page = _comes_back(client, store, plan)
        words, least = _command(page, "cli"), parse_metric(label).label
        place = words.index("--least")
        assert words[place : place + 4] == ["--least", least, "--max-loss", "0.4375"]
        assert _asked(words) == {parse_budget(text).metric for text in budgets}
        sent = Form(page).sent
        assert (sent["least"], sent["max_loss"]) == ([least], ["0.4375"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_constraint_comes_back(client: TestClient, store: Store, kind: str) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    texts = _alternatives(kind)
    for given in [[text] for text in texts] + ([texts] if kind != "target" else []):
        plan = plan_from_profile(profile, ["block_params=0.9"], constraints={kind: given})
        words = _command(_comes_back(client, store, plan), "cli")
        asked = [words[n + 1] for n, word in enumerate(words) if word == f"--{kind.replace('_', '-')}"]
        assert asked == plan.constraints.written.get(kind, [])


@pytest.mark.parametrize(
    ("budgets", "given"),
    [
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


@pytest.mark.parametrize(("given", "missing"), [("least", "max_loss"), ("max_loss", "least")])
def test_one_of_least_and_loss_alone_is_refused(
    client: TestClient, store: Store, given: str, missing: str
) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    fields = {"profile": profile.key, "use": "none", "least": "kv_bytes_per_token", "max_loss": "0.05"}
    assert 'id="loss"' in client.get("/workshop/answer", params=fields).text
    budgets = {"use": "kv_bytes_per_token", "kv_bytes_per_token": "0.9"}
    twice = client.get("/workshop", params={**fields, **budgets}).text
    assert "kv_bytes_per_token is to be as small as it can; give budgets on other metrics alone" in twice
    fields[missing] = ""
    refused = f"{missing}: how small a metric can get is asked at a predicted loss; fill in both fields"
    assert refused in client.get("/workshop", params=fields).text
    saved = client.post("/workshop/plans", data=fields)
    assert (saved.status_code, store.plans.find("default").items) == (422, [])
    assert refused in saved.json()["detail"]


def test_a_loss_out_of_reach_shows_the_way_out(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    fields = {"profile": profile.key, "use": "block_params", "block_params": "0.3"}
    answer = client.get(
        "/workshop/answer", params={**fields, "least": "kv_bytes_per_token", "max_loss": "1e-3"}
    ).text
    way = re.search(r'href="/workshop\?([^"]+)">Raise to ([\d.]+)<', answer)
    assert way is not None
    least = plan_from_profile(profile, ["block_params=0.3"]).predicted.loss_nats
    assert float(way[2]) == pytest.approx(least, rel=1e-2)
    assert 'id="loss"' in client.get(f"/workshop/answer?{html.unescape(way[1])}").text


def test_what_is_proved_of_a_least_metric_is_said_in_its_unit(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    fields = {"profile": profile.key, "least": "kv_bytes_per_token", "max_loss": "0.05"}
    page = client.get(client.post("/workshop/plans", data=fields).headers["location"]).text
    proof = re.sub("<[^>]+>", "", page.partition('id="proof"')[2].partition("</section>")[0])
    least = minimize(profile, "kv_bytes_per_token", max_loss_nats=0.05).costs["kv_bytes_per_token"]
    assert "a predicted loss of at most 0.0500 nats/token have less of kv_bytes_per_token than" in proof
    assert f"than {least} B; these have {least} B and lose 0.0" in proof
    assert f"Own bound{least} B" in proof


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
    assert shown == [(f"{point.limits[0]:,}", nats(point.loss_nats)) for point in wanted.points]
    picture = client.get("/workshop/frontier.svg", params=query)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/svg+xml")
    assert picture.text == frontier(wanted).svg()
    wrong = client.get("/workshop/frontier", params={**query, "memory_context": "many"})
    assert (wrong.status_code, "context must be a whole number" in wrong.text) == (200, True)
