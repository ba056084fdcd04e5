"""Documents as earlier versions stored them: read, they are the same bytes when they are written again, and have the names that
they had.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from allocator.base.digests import digest
from allocator.base.document import Document
from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.jobs.document import EventDocument, JobDocument
from allocator.jobs.submit import submitted
from allocator.plan.documents.difference import PlanDiff
from allocator.plan.documents.explanation import Explanation
from allocator.plan.documents.frontier import Frontier
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.documents.sensitivity import Sensitivity
from allocator.plan.frontier import plan_at
from allocator.plan.metrics.registry import SUMMARY
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.latency import LatencyTable, read_table
from allocator.plan.planning import plan_from_profile
from allocator.plan.queries import sensitivity
from allocator.report.document import Report
from allocator.report.rows import ROWS
from allocator.stages.request import Request
from allocator.store import Store
from api.cli.tables import comparison
from api.schemas.requests import JobRequest
from tests.support.jobs import new_job
from tests.support.profiles import SMALL, measured_profile, quantized_profile, small_profile

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "documents"
PROFILES = {file.stem.removeprefix("profile-"): file.read_text() for file in FOLDER.glob("profile-*.json")}
STORED_PLANS = {
    file.stem.removeprefix("plan-"): file.read_text().strip() for file in FOLDER.glob("plan-*.json")
}
PLANS = {
    "around": "ed5a7131cd9a54d17862133b056e03c2c346b1853b22c71ed103731fc2598ac0",
    "first": "90d0efe6ca0a18feea172442cade68ffd05ce3ca3c3315762766355ac06ff7b1",
    "gradient": "a3f93d5e38288eaf39ec40994c9cb672dbebd12a3fb023b0b227a3a170fd5fcc",
    "measured": "4eb4ad7b4afc6997bcef72201b716e3957337e7b95ffb2ddb53a549532aba2f8",
    "quantized": "74d1a8c179b7b7d0109b68fccc30877c1b40626f84b8fcb9e7db62c40df9933f",
}
"""Digests of plans at 80 % of the block parameters, made when these profiles were plain dictionaries."""
REPORTS = {
    file.stem.removeprefix("report-"): file.read_text().strip() for file in FOLDER.glob("report-*.json")
}
FRONTIERS = {
    file.stem.removeprefix("frontier-"): file.read_text().strip() for file in FOLDER.glob("frontier-*.json")
}
ANSWERS: dict[str, type[Document]] = {
    "sensitivity-measured": Sensitivity,
    "sensitivity-around": Sensitivity,
    "sensitivity-unreachable": Sensitivity,
    "explanation-bits": Explanation,
    "explanation-latents": Explanation,
    "explanation-pinned": Explanation,
    "explanation-served": Explanation,
    "difference-ranks": PlanDiff,
    "difference-bits": PlanDiff,
    "difference-latents": PlanDiff,
    "difference-served": PlanDiff,
    "job-succeeded": JobDocument,
    "job-failed": JobDocument,
    "job-waiting": JobDocument,
    "job-running": JobDocument,
    "event-failed": EventDocument,
}
"""Answers of commands and of REST, as they were when they were plain dictionaries."""
LATENCY_TABLE = (FOLDER / "latency-first.json").read_text().strip()
LATENCY_DIGEST = "e3790f0eeaa5f044f7fcc5987aee28806af6a8118e607a70a5af0703e26a0123"
REQUEST: dict[str, Any] = json.loads((FOLDER / "request-compress.json").read_text())
REQUEST_SHA256 = "c6befcaeb22bae8ab593bb3ee58d4dbdd90361ea9a092974ff7a94e597e75373"
"""By which a second submission was recognised when requests were plain dictionaries."""


def test_there_is_one_of_each_kind() -> None:
    assert set(PROFILES) == {"first", "measured", "around", "quantized", "gradient"}


@pytest.mark.parametrize("name", PROFILES)
def test_a_stored_profile_is_written_as_it_was_read(name: str) -> None:
    """Every digit, every name, whatever was absent, and their order."""
    text = PROFILES[name].strip()
    assert json.dumps(Profile.stored(json.loads(text)).document) == text


def test_there_is_a_plan_of_each_kind() -> None:
    solved = {"plain", "pinned", "bits", "latents", "timed", "target", "uniform", "least"}
    assert set(STORED_PLANS) == {*solved, "first", "refined", "transferred"}


@pytest.mark.parametrize("name", STORED_PLANS)
def test_a_stored_plan_is_written_as_it_was_read(name: str) -> None:
    """Every digit, every name, whatever was absent, and their order; a file is read no otherwise."""
    document = json.loads(STORED_PLANS[name])
    plan = Plan.stored(document)
    assert json.dumps(plan.document) == STORED_PLANS[name]
    assert Plan.read(document) == plan
    assert plan.chosen.layers() == document["ranks"]
    for baseline, entry in plan.baseline.items():
        assert entry.chosen.layers() == document["baseline"][baseline]["ranks"]
    assert json.dumps(plan.document) == STORED_PLANS[name], "whatever was asked of it before"


@pytest.mark.parametrize("name", [name for name in STORED_PLANS if name != "first"])
def test_a_stored_plan_has_the_digest_that_it_had(name: str) -> None:
    plan = Plan.stored(json.loads(STORED_PLANS[name]))
    assert plan.own_digest == plan.digest
    again = plan.replaced(digest="", created_by="somebody else").named()
    assert again.digest == plan.digest
    assert plan.replaced(solver="another").own_digest != plan.digest


def test_the_first_plans_said_less_than_those_of_today() -> None:
    plan = Plan.stored(json.loads(STORED_PLANS["first"]))
    assert plan.certificate is not None
    assert (plan.certificate.proof, plan.certificate.warnings) == (None, ())
    assert (plan.budgets[0].understood, plan.bits, plan.latency_table) == (None, (), None)
    assert "windows" not in plan.document["model"]["geometry"]


def test_what_was_left_out_of_a_plan_is_no_part_of_it() -> None:
    plan = Plan.stored({**json.loads(STORED_PLANS["refined"]), "shared_by": "red"})
    assert plan.without("refinement", "shared_by").document.keys() == plan.document.keys() - {
        "refinement",
        "shared_by",
    }


@pytest.mark.parametrize("name", PLANS)
def test_plans_of_a_stored_profile_have_the_digests_that_they_had(name: str) -> None:
    plan = plan_from_profile(Profile.stored(json.loads(PROFILES[name])), ["block_params=0.8"])
    assert plan.digest == PLANS[name]


def test_the_first_profiles_said_less_than_those_of_today() -> None:
    document = json.loads(PROFILES["first"])
    assert not {"solver_version", "effort", "cost", "around", "identity"} & document.keys()
    profile = Profile.stored(document)
    assert (profile.around, profile.identity, profile.bits) == (None, None, ())
    assert profile.curves[0].held_out == ()
    assert profile.curves[0].measured[0].windows == 0


def test_numbers_that_a_database_made_whole_are_floats_again() -> None:
    document = json.loads(PROFILES["measured"])
    document["curves"][0]["analytic"][0] = 10**17
    found = json.dumps(Profile.stored(document).document["curves"][0]["analytic"][0])
    assert found == "1e+17"


def test_there_is_a_report_and_a_frontier_of_each_kind() -> None:
    assert set(REPORTS) == {"first", "early-healing", "refined", "kept", "bits", "gemma", "healed"}
    assert set(FRONTIERS) == {"curve", "surface", "bits", "ranks"}


@pytest.mark.parametrize("name", REPORTS)
def test_a_stored_report_is_written_as_it_was_read(name: str) -> None:
    """Every digit, every name, whatever was absent, and their order."""
    document = json.loads(REPORTS[name])
    report = Report.stored(document)
    assert json.dumps(report.document) == REPORTS[name]
    assert Report.read(document) == report
    for row, figures in report.models:
        assert figures.costs == {metric: document[row.name][metric] for metric in SUMMARY}
        if row.name != "dense":
            assert figures.chosen.layers() == document[row.name]["ranks"]
    assert [row.name for row, _ in report.models] == [name for name in ROWS if name in document]
    assert json.dumps(report.document) == REPORTS[name], "whatever was asked of it before"


def test_early_reports_said_less_than_those_of_today() -> None:
    report = Report.stored(json.loads(REPORTS["first"]))
    assert not {"calibration", "evaluation", "feedback", "heal", "refinement"} & report.document.keys()
    assert (report.heal, report.refinement, report.feedback, report.continuations) == (None, None, (), ())
    assert (report.evaluation.window_tokens, report.evaluation.seen) == (0, None)
    assert report.plan.top1_agreement is None
    assert report.plan.evaluation_rise_stderr_nats is None
    healing = Report.stored(json.loads(REPORTS["early-healing"])).heal
    assert healing is not None
    assert (healing.kept_step, healing.checks, healing.window_tokens) == (48, (), 0)


def test_what_a_later_version_adds_to_a_report_is_left_alone() -> None:
    document = json.loads(REPORTS["refined"])
    document["plan"]["later"] = document["evaluation"]["later"] = document["later"] = 1
    assert json.dumps(Report.stored(document).document) == REPORTS["refined"]
    with pytest.raises(InvalidInput, match=r"evaluation\.later: found 1; Extra"):
        Report.read(document)


def test_a_report_says_whether_the_evaluation_text_was_seen() -> None:
    report = Report.stored(json.loads(REPORTS["refined"]))
    assert report.evaluation.seen is not None
    assert "16 of its 64 windows (25 %)" in report.evaluation.seen
    assert Report.stored(json.loads(REPORTS["healed"])).evaluation.seen is None


@pytest.mark.parametrize("name", REPORTS)
def test_the_table_of_a_stored_report_is_printed(name: str) -> None:
    document = json.loads(REPORTS[name])
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison(Report.stored(document)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for row in {"dense", "plan", "healed"} & document.keys():
        assert f"{document[row]['evaluation_perplexity']:.3f}" in printed
    assert f"{document['plan']['measured_loss_nats']:.4f}" in printed
    assert ("proven gap" in printed) == (document["certificate"] is not None)


@pytest.mark.parametrize("name", FRONTIERS)
def test_a_frontier_is_written_as_it_was_read(name: str) -> None:
    document = json.loads(FRONTIERS[name])
    frontier = Frontier.stored(document)
    assert json.dumps(frontier.document) == FRONTIERS[name]
    assert Frontier.read(document) == frontier
    assert frontier.proven
    assert ("bits" in frontier.document) == (name in ("bits", "ranks"))


@pytest.mark.parametrize(("name", "index", "bits"), [("curve", 2, ()), ("bits", 1, (8,)), ("ranks", 1, ())])
def test_a_point_of_a_stored_frontier_is_still_the_plan_of_its_limits(
    name: str, index: int, bits: tuple[int, ...]
) -> None:
    frontier = Frontier.stored(json.loads(FRONTIERS[name]))
    plan = plan_at(small_profile() if name == "curve" else quantized_profile(), frontier, index)
    assert plan.predicted.loss_nats == pytest.approx(frontier.points[index].loss_nats, rel=1e-12)
    assert plan.bits == bits


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_written_as_it_was_read(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text().strip()
    document = json.loads(text)
    answer = ANSWERS[name].stored({**document, "later": 1})
    assert json.dumps(answer.document) == text
    assert ANSWERS[name].read(document) == answer
    with pytest.raises(InvalidInput, match="later: found 1; Extra"):
        ANSWERS[name].read({**document, "later": 1})


def test_a_sensitivity_is_that_of_the_profile_still() -> None:
    before = Sensitivity.stored(json.loads((FOLDER / "sensitivity-measured.json").read_text()))
    after = sensitivity(measured_profile(), remove=0.3, metric=before.metric, limit=2)
    assert after.whole_model is not None
    assert before.whole_model is not None
    assert after.whole_model.digest == before.whole_model.digest
    losses, known = ([cut.loss_nats for cut in found.most_sensitive] for found in (after, before))
    assert losses == pytest.approx(known, rel=1e-12)


def test_what_a_later_version_adds_is_left_alone_in_a_store_and_refused_in_a_file() -> None:
    document = json.loads(PROFILES["measured"])
    document["curves"][0]["later"] = document["later"] = 1
    assert Profile.stored(document).document == json.loads(PROFILES["measured"])
    with pytest.raises(InvalidInput, match=r"curves\[0\].later: found 1; Extra"):
        Profile.read(document)


def test_nobody_changes_a_document_by_accident() -> None:
    profile = small_profile()
    with pytest.raises(ValidationError, match="frozen"):
        profile.key = "another"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        profile.curves[0].measured[0].loss_nats = 0.0  # type: ignore[misc]
    assert profile.replaced(key="another").curves == profile.curves


def test_a_changed_curve_answers_with_its_own_losses() -> None:
    curve = small_profile().curves[0]
    before = curve.loss_at(2)
    halved = curve.replaced(loss_nats=[loss / 2 for loss in curve.loss_nats])
    assert halved.loss_at(2) == before / 2
    assert curve.loss_at(2) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: g.update(kv_heads=3), "kv_heads: found 3; allowed is a divisor of heads, 4"),
        (lambda g: g.update(windows=[1]), r"windows: found \[1\]; allowed is none or 2 of them"),
        (lambda g: g.update(fixed=["qk", "qk"]), "fixed: found .*; allowed is each component once"),
        (lambda g: g.update(active_experts=2), "active_experts: found 2; allowed is at most experts, 1"),
        (lambda g: g.update(layers=0, windows=[1]), "layers: found 0; Input should be greater"),
        (lambda g: g.update(heads="four"), "heads: found 'four'; Input should be a valid integer"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused_by_name(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    document = SMALL.document
    change(document)
    with pytest.raises(InvalidInput, match=said):
        Geometry.read(document)


def test_sizes_left_out_are_written_too() -> None:
    """Keys are made of them: a model without experts says that it has one."""
    assert SMALL.document["experts"] == 1
    assert SMALL.document["windows"] == []


def test_a_stored_latency_table_is_written_as_it_was_read_and_has_its_name() -> None:
    document = json.loads(LATENCY_TABLE)
    table = LatencyTable.stored(document)
    assert json.dumps(table.document) == LATENCY_TABLE
    unnamed = {name: value for name, value in document.items() if name != "digest"}
    assert read_table(document) == read_table(unnamed) == table
    assert table.digest == LATENCY_DIGEST
    assert LatencyTable.stored({**document, "later": 1}) == table
    with pytest.raises(InvalidInput, match=f"digest: found {LATENCY_DIGEST}; allowed is the hash"):
        read_table({**document, "rounds": document["rounds"] + 1})


def test_a_stored_request_is_written_as_it_was_read_and_names_its_job(
    store: Store, settings: Settings, scripted: None
) -> None:
    """A submission that is repeated after an upgrade of the service finds the job that it made before."""
    assert digest(REQUEST) == REQUEST_SHA256
    kind, document = REQUEST["kind"], REQUEST["request"]
    assert json.dumps(Request.stored(kind, document).document) == json.dumps(document)
    job_id = new_job(store, settings, kind, document, idempotency_key="once")
    assert store.jobs.get("default", job_id).request_sha256 == REQUEST_SHA256
    sent = JobRequest.model_validate({"kind": kind, **document})
    assert submitted(store, team="default", request=sent, idempotency_key="once") == job_id
