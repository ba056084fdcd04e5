"""Pages without a browser: headers, caching, error pages, forms, and what must not be left behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.plan.ask.constraints import KINDS
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import shown
from allocator.plan.planning import plan_from_profile
from allocator.report.rows import ROWS
from allocator.stages.request import Request
from allocator.store import Store
from api.app import create_app
from tests.support.latency import table
from tests.support.profiles import LARGE, measured_profile, quantized_profile, small_profile
from tests.support.reports import report_of

REPORTS = Path(__file__).resolve().parent.parent.glob("assets/documents/report-*.json")
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def client(settings: Settings, store: Store, tiny_model: str, scripted: None) -> Any:
    app = create_app(settings, store=store)
    with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as result:
        yield result


def _assert_guarded(headers: Any) -> None:
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/profiles", "/plans", "/workshop", "/no-such-page"])
def test_every_page_is_guarded_and_holds_no_script_or_style_of_its_own(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=HTML)
    _assert_guarded(answer.headers)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", answer.text)
    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", answer.text)


def test_empty_pages_name_what_fills_them(client: TestClient) -> None:
    for path, way in (
        ("/", "rankalloc demo"),
        ("/profiles", "rankalloc profile"),
        ("/plans", "rankalloc plan"),
    ):
        assert way in client.get(path).text


def test_static_files_are_kept_for_ever_under_the_name_of_their_content(client: TestClient) -> None:
    (url,) = set(re.findall(r'href="(/static/[0-9a-f]+/base\.css)"', client.get("/").text))
    answer = client.get(url)
    assert "immutable" in answer.headers["cache-control"]
    assert client.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    old = client.get(url.replace(url.split("/")[2], "0" * 12))
    assert (old.content, old.headers["cache-control"]) == (answer.content, "no-cache")
    for name in ("none.css", "..%2f..%2fapp.py", "__init__.py"):
        assert client.get(f"/static/x/{name}").status_code == 404


def test_browsers_get_errors_as_pages_and_programs_as_problems(client: TestClient) -> None:
    for path in ("/jobs/none", "/profiles/none", "/plans/none", "/v1/plans/none", "/nowhere"):
        page = client.get(path, headers=HTML)
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        _assert_guarded(page.headers)
        assert page.headers["x-request-id"] in page.text
        problem = client.get(path)
        assert (problem.status_code, problem.headers["content-type"]) == (404, "application/problem+json")
    wrong = client.get("/?state=melting", headers=HTML)
    assert (wrong.status_code, "succeeded" in wrong.text) == (422, True)
    assert client.get("/", headers={**HTML, "Host": "evil.example"}).status_code == 421


def test_a_form_from_elsewhere_is_refused(client: TestClient, store: Store) -> None:
    form = {"kind": "plan", "model": "local:tiny", "budgets": "params=0.8"}
    foreign = client.post("/jobs", data=form, headers={**HTML, "Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert client.post("/jobs", json=form, headers=HTML).status_code == 415
    assert store.jobs.find("default").items == []


def test_a_form_sent_twice_is_one_job(client: TestClient, store: Store) -> None:
    key = re.search(r'name="idempotency_key" value="(\w+)"', client.get("/").text)
    assert key is not None
    form = {"kind": "plan", "model": "local:tiny", "budgets": "params=0.8", "align": "mlp=4 8"}
    form |= {"idempotency_key": key[1], "refine": "2"}
    answers = [client.post("/jobs", data=form) for _ in range(2)]
    (job,) = store.jobs.find("default").items
    assert [(answer.status_code, answer.headers["location"]) for answer in answers] == [
        (303, f"/jobs/{job.id}")
    ] * 2
    assert (job.request["constraints"], job.request["refine"]) == ({"align": ["mlp=4", "8"]}, 2)


def test_budgets_of_a_form_are_one_a_line_or_behind_each_other(client: TestClient, store: Store) -> None:
    budgets = "block_params = 80 % params=0.9\r\nmemory=24 GiB@batch=8, context=64\r\n\r\n"
    answer = client.post("/jobs", data={"kind": "plan", "model": "local:tiny", "budgets": budgets})
    assert answer.status_code == 303, answer.text
    (job,) = store.jobs.find("default").items
    wanted = ["block_params = 80 %", "params=0.9", "memory=24 GiB@batch=8, context=64"]
    assert job.request["budgets"] == wanted


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "local:none"}, "model"),
        ({"budgets": "params=x"}, "budgets"),
        ({"heal": "many"}, "heal"),
        ({"kind": "profile", "heal": "3"}, "heal"),
        ({"evaluation": "/etc/passwd"}, "evaluation"),
        ({"effort": "heroic"}, "effort"),
        ({"samples": "some"}, "samples"),
        ({"sequence_length": "8"}, "sequence_length"),
        ({"kind": "profile", "evaluation_length": "64"}, "evaluation_length"),
        ({"bits": "3"}, "bits"),
        ({"bits": "8,4"}, "bits"),
        ({"kind": "transfer"}, "profile"),
        ({"around": "alias:none"}, "around"),
        ({"baselines": "some"}, "baselines"),
        ({"latency_table": "0" * 65}, "latency_table"),
        ({"latency_table": "0" * 64}, "latency_table"),
        ({"kind": "plan", "around": "alias:none"}, "around"),
        ({"plan": "alias:none", "budgets": ""}, "plan"),
        ({"kind": "transfer", "profile": "0" * 64, "budgets": ""}, "profile"),
    ],
)
def test_a_wrong_field_is_named_beside_it(
    client: TestClient, store: Store, change: dict[str, str], field: str
) -> None:
    form = {"kind": "compress", "model": "local:tiny", "budgets": "params=0.8", **change}
    answer = client.post("/jobs", data=form, headers=HTML)
    assert answer.status_code == 422
    assert f'id="wrong-{field}"' in answer.text
    assert store.jobs.find("default").items == []


def test_the_form_has_every_field_of_a_request(client: TestClient) -> None:
    form = client.get("/").text.partition('<form method="post" action="/jobs"')[2].partition("</form>")[0]
    names = set(re.findall(r'<(?:input|select|textarea) [^>]*name="(\w+)"', form))
    # A plan's field comes twice where one is given.
    assert names == {*Request.model_fields, *KINDS, "idempotency_key"} - {"constraints"}
    assert 'title="What the plan is measured beside: every uniform plan' in form
    assert "For profile or plan only." in form, "whose fields are for some kinds of jobs say so"


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "transfer", "profile": "PROFILE"},
        {"kind": "transfer", "profile": "PROFILE", "plan": "PLAN"},
        {"kind": "profile", "around": "PLAN"},
        {"kind": "profile", "bits": "8,4"},
        {"kind": "plan", "bits": "4", "budgets": "memory=0.6@context=64"},
        {"kind": "plan", "latency_table": "TABLE", "budgets": "latency=0.8@context=64,phase=decode"},
        {"kind": "compress", "baselines": "none", "budgets": "params=0.8"},
    ],
)
def test_every_kind_of_job_can_be_submitted(client: TestClient, store: Store, asked: dict[str, str]) -> None:
    profile = small_profile().replaced(key="small-profile")
    store.profiles.put("default", profile)
    plan = plan_from_profile(profile, ["block_params=80%"])
    store.plans.put("default", plan, created_by="me")
    store.latency_tables.put("default", table(), created_by="me")
    known = {"PROFILE": profile.key, "PLAN": plan.digest, "TABLE": table().digest}
    form = {name: known.get(value, value) for name, value in asked.items()}
    answer = client.post("/jobs", data={"model": "local:tiny", **form}, headers=HTML)
    assert answer.status_code == 303, answer.text
    (job,) = store.jobs.find("default").items
    assert job.kind == form.pop("kind")
    numbers = {"8,4": [8, 4], "4": [4]}
    budgets = [text] if (text := form.pop("budgets", "")) else []
    wanted = {name: numbers[value] if name == "bits" else value for name, value in form.items()}
    assert {name: job.request[name] for name in wanted} == wanted
    assert job.request["budgets"] == budgets


def test_looking_at_plans_leaves_nothing_behind(client: TestClient, store: Store) -> None:
    store.profiles.put("default", small_profile())
    body = {"profile_key": "small", "budgets": ["block_params=0.7"]}
    looked = client.post("/v1/plans", json={**body, "store": False})
    assert (looked.status_code, "location" in looked.headers) == (200, False)
    assert client.get("/workshop?profile=small&block_params=0.7").status_code == 200
    assert store.plans.find("default").items == []
    kept = client.post("/v1/plans", json=body)
    assert (kept.status_code, kept.json()["digest"]) == (201, looked.json()["digest"])


def test_the_frontier_heeds_constraints(client: TestClient, store: Store) -> None:
    store.profiles.put("default", small_profile())
    query: dict[str, Any] = {"metric": "block_params", "points": 3, "min_rank": ["0.5", "mlp=0.75"]}
    points = client.get("/v1/profiles/small/frontier", params=query).json()["points"]
    limits = {"min_rank": ["0.5", "mlp=0.75"]}
    for point in points:
        plan = plan_from_profile(small_profile(), [f"block_params={point['limits'][0]}"], constraints=limits)
        assert point["loss_nats"] == pytest.approx(plan.predicted.loss_nats)
    assert client.get("/v1/profiles/small/frontier", params={**query, "pin": "x"}).status_code == 422


def test_figures_on_a_text_that_was_seen_are_marked_on_the_plan_s_page(
    client: TestClient, store: Store
) -> None:
    profile = small_profile()
    store.profiles.put("default", profile)
    plan = plan_from_profile(profile, ["block_params=80%"])
    store.plans.put("default", plan, created_by="me")
    measured = {"measured_loss_nats": 0.25, "measured_stderr_nats": 0.01, "evaluation_rise_nats": 0.375}
    for shared in (0, 16):
        body = {"kind": "compress", "model": "local:tiny", "budgets": ["params=0.5"]}
        job = client.post("/v1/jobs", json=body).json()["id"]
        counts = {"evaluation_windows": 64, "evaluation_shared_windows": shared}
        store.plans.add_measurement("default", plan.digest, job, {**measured, **counts})
    page = client.get(f"/plans/{plan.digest}").text
    assert page.count("0.375") == 2
    assert page.count("16 of the 64 evaluation windows also occur in the calibration text") == 1
    assert page.count("also occur") == 1
    assert f'title="{plan.budgets[0].understood.replace("<", "&lt;")}"' in page
    # As early versions stored them.
    budgets = tuple(row.without("understood", "shadow_price_text") for row in plan.budgets)
    certificate = plan.certificate.without("proof", "warnings", "dual_bound", "most_states")
    early = plan.replaced(digest="0" * 64, budgets=budgets, certificate=certificate)
    store.plans.put("default", early, created_by="me")
    assert client.get(f"/plans/{'0' * 64}").status_code == 200


def test_eighty_layers_fit(client: TestClient, store: Store) -> None:
    profile = measured_profile(LARGE)
    store.profiles.put("default", profile)
    answer = client.get(f"/profiles/{profile.key}")
    assert answer.status_code == 200
    assert answer.text.count("data-layer=") == 3 * LARGE.layers


def test_a_report_is_served_in_a_sandbox(client: TestClient, store: Store, settings: Settings) -> None:
    job = client.post("/v1/jobs", json={"kind": "profile", "model": "local:tiny"}).json()["id"]
    folder = settings.artifacts_dir / job
    folder.mkdir()
    (folder / "report.html").write_text("<script>document.cookie</script>")
    store.artifacts.add("default", job, "report.html", 32, "0" * 64, f"{job}/report.html")
    answer = client.get(f"/jobs/{job}/report")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none';")
    assert "allow-same-origin" not in policy
    (folder / "report.html").unlink()
    assert client.get(f"/jobs/{job}/report", headers=HTML).status_code == 404


def test_the_page_of_a_job_shows_its_report(client: TestClient, store: Store, settings: Settings) -> None:
    profile, budgets = quantized_profile(), ["memory=0.7@context=64"]
    plan = plan_from_profile(profile, budgets)
    store.plans.put("default", plan, created_by="me")
    job = client.post("/v1/jobs", json={"kind": "profile", "model": "local:tiny"}).json()["id"]
    store.jobs.link(job, plan_digest=plan.digest)
    file = settings.artifacts_dir / job / "report.json"
    file.parent.mkdir()
    file.write_text(json.dumps(report_of(profile, budgets).document))
    store.artifacts.add("default", job, "report.json", file.stat().st_size, "0" * 64, f"{job}/report.json")
    answer = client.get(f"/jobs/{job}", headers=HTML)
    assert answer.status_code == 200, answer.text
    cells = re.findall(r"<span>(\d+(?: @\d)?)</span></td>", answer.text)
    told = [shown(*plan.chosen.at(layer, c)) for c in COMPONENTS for layer in range(2)]
    assert cells == told
    assert any("@" in cell for cell in cells)
    report = answer.text.partition('aria-label="Report"')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="row">([^<]+)</th>', report) == [
        *("dense", "uniform A3", "uniform ranks", "uniform per kind", "mixed plan"),
    ]
    heads = re.findall(r'<th scope="col">([^<]+)</th>', report)
    assert heads[:4] == ["Parameters", "Block parameters", "KV bytes/token", "FLOPs/token"]
    costs = plan.costs
    assert f'<td title="{costs["params"]}">' in report.rpartition("<tr")[2]


@pytest.mark.parametrize("file", sorted(REPORTS), ids=lambda file: file.stem)
def test_the_page_of_a_job_shows_reports_of_earlier_versions(
    client: TestClient, store: Store, settings: Settings, file: Path
) -> None:
    job = client.post("/v1/jobs", json={"kind": "profile", "model": "local:tiny"}).json()["id"]
    copy = settings.artifacts_dir / job / "report.json"
    copy.parent.mkdir()
    shutil.copyfile(file, copy)
    store.artifacts.add("default", job, "report.json", copy.stat().st_size, "0" * 64, f"{job}/report.json")
    answer = client.get(f"/jobs/{job}", headers=HTML)
    assert answer.status_code == 200, answer.text
    document = json.loads(file.read_text(encoding="utf-8"))
    shown = answer.text.partition('aria-label="Report"')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="row">([^<]+)</th>', shown) == [
        row.title
        for row in ROWS.values()
        if row.name in document and not (row.name == "uniform_a3" and document["solver"] == "a3")
    ]
    assert f"{document['plan']['evaluation_perplexity']:.3f}" in shown
    assert ("in windows of" in answer.text) == ("evaluation" in document)


def test_all_layers_and_components_are_a_choice(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    address = f"/profiles/{profile.key}"
    for path in (address, f"{address}/curves"):
        answer = client.get(path, params={"layer": "", "component": "", "scale": "log"})
        assert answer.status_code == 200, answer.text
        assert answer.text.count("<path") == len(profile.curves)
        alone = client.get(path, params={"layer": "1", "component": "ov", "scale": "linear"})
        assert alone.text.count("<path") == 1
        assert client.get(path, params={"layer": "2"}).status_code == 422
        assert client.get(path, params={"component": "head"}).status_code == 422
