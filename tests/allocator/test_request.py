"""A job's request: what is stored is what was asked, old rows are read, and what does not go together is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from allocator.base.digests import digest
from allocator.base.errors import InvalidInput
from allocator.plan.effort import EFFORTS
from allocator.stages.request import DEFAULT_EVALUATIONS, Request
from allocator.stages.rules import check_request
from api.cli.options import request_of
from api.schemas.requests import JobRequest

FORMER: dict[str, Any] = {
    "model": "path:/models/small",
    "budgets": ["memory=0.6@context=512"],
    "solver": "a4",
    "effort": "quick",
    "export": ["tarred"],
    "constraints": {"align": ["mlp=4", "8"], "target": ["vllm"]},
    "program_solver": "cbc",
    "most_states": 0,
    "sources": {"calibration": "hf:owner/name@abc"},
    "script": {"prepare": {"items": None}},
}
"""As other versions may have stored one: with choices and fields that this one does not have."""


def request(kind: str = "compress", **fields: Any) -> Request:
    return Request.model_validate({"kind": kind, "model": "local:m", **fields})


@pytest.mark.parametrize(
    "document",
    [FORMER, {"model": "local:m"}, {"model": "local:m", "budgets": [], "heal": 0, "constraints": {}}],
)
def test_a_stored_request_loses_nothing_and_gains_nothing(document: dict[str, Any]) -> None:
    assert Request.stored("compress", document).document == document


def test_fields_of_a_stored_request_are_read_and_missing_ones_are_none() -> None:
    former = Request.stored("plan", FORMER)
    assert (former.kind, former.method, former.effort) == ("plan", "a4", "quick")
    assert former.limits == FORMER["constraints"]
    assert former.sources == FORMER["sources"]
    bare = Request.stored("profile", {"model": "local:m"})
    assert (bare.budgets, bare.limits, bare.sources, bare.heal) == ([], None, {}, None)
    assert bare.method == "a3+"


def test_what_is_sent_over_rest_is_stored_as_it_always_was() -> None:
    """These bytes name jobs by their idempotency keys."""
    body = {
        "kind": "profile",
        "model": "local:m",
        "effort": None,
        "constraints": {"pin": None, "tie": ["qk"]},
    }
    sent = JobRequest.model_validate(body)
    assert sent.document == {"model": "local:m", "budgets": [], "constraints": {"tie": ["qk"]}}
    assert list(sent.document) == ["model", "budgets", "constraints"]
    assert digest({"kind": sent.kind, "request": sent.document}) == (
        "e439f2bfa3e0126a93494750e00f144c0635dc48984f550b9a0c63c9a9144fdb"
    )
    with pytest.raises(ValidationError, match=r"sources\n.*not permitted"):
        JobRequest.model_validate({**body, "sources": {}})


def test_a_command_stores_what_was_given_and_not_what_is_usual() -> None:
    options = {"model": "m", "budgets": ["params=0.8"], "effort": None, "heal": 0, "bits": [], "refine": 0}
    assert request_of("compress", {**options, "baselines": "all"}).document == {
        "model": "m",
        "budgets": ["params=0.8"],
        "refine": 0,
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"effort": "quick"}, f"--effort: 'quick' is not {' or '.join(EFFORTS)}"),
        ({"refine": 10_001}, "--refine: '10001' is not a whole number from 0 to 10000"),
        ({"text_column": ""}, "--text-column: '': String should have at least 1 character"),
        ({"export": ["compact", "onnx"]}, "--export: 'onnx' is not compact or padded"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        request_of("compress", {"model": "m", "budgets": ["params=0.8"], **changed})
    assert caught.value.detail.startswith(said)
    assert caught.value.fields[0].field == next(iter(changed))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"refine": 4}, "refine"),
        ({"heal": 10}, "heal"),
        ({"around": "abc", "kind": "plan"}, "around"),
        ({"budgets": ["params=0.5"]}, "bits"),
        ({"bits": [3]}, "bits"),
    ],
)
def test_what_does_not_go_with_bits_is_refused(changed: dict[str, Any], field: str) -> None:
    fields = {"bits": [8], "budgets": ["memory=0.5@context=64"]}
    check_request(request(**fields))
    check_request(request(**{**fields, **changed, "bits": None}))
    with pytest.raises(InvalidInput) as caught:
        check_request(Request.stored(changed.get("kind", "compress"), {"model": "m", **fields, **changed}))
    assert [each.field for each in caught.value.fields] == [field]
    assert field in caught.value.detail


@pytest.mark.parametrize("more", [{"bits": [8]}, {"around": "a" * 64}])
def test_gradients_are_refused_where_they_predict_nothing(more: dict[str, Any]) -> None:
    assert request("profile", **more).usual_effort == "standard"
    check_request(request("profile", **more))
    with pytest.raises(InvalidInput, match=r"effort: 'gradient'.*fast, standard or thorough") as refused:
        check_request(request("profile", effort="gradient", **more))
    assert refused.value.fields[0].field == "effort"
    assert request().usual_effort == "gradient"
    check_request(request(effort="gradient"))


@pytest.mark.parametrize(("name", "value"), [("effort", "fast"), ("bits", [8]), ("around", "a" * 64)])
def test_what_does_not_go_with_latents_is_refused(name: str, value: Any) -> None:
    check_request(request("plan", solver="a3+joint", effort="gradient", refine=5))
    check_request(request("profile", solver="a3+", **{name: value}))
    with pytest.raises(InvalidInput, match=f"{name}: .* does not go with solver a3.joint"):
        check_request(request("profile", solver="a3+joint", **{name: value}))


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (
            "profile",
            {"heal": 1},
            "heal: a job of kind profile takes none; it is for jobs of kind compress only",
        ),
        ("transfer", {}, "profile: a job of kind transfer needs the key of a stored profile"),
        ("compress", {"export": ["stock"]}, "export: stock works beside --target stock"),
    ],
)
def test_a_field_that_the_kind_or_the_target_does_not_know_is_named(
    kind: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_request(request(kind, **fields))
    assert caught.value.detail.startswith(said)


def test_refinement_costs_deep_models_no_more_and_is_left_out_where_there_are_bits() -> None:
    evaluations = [request().evaluations(layers) for layers in (1, 8, 30, 80)]
    assert evaluations == [DEFAULT_EVALUATIONS, DEFAULT_EVALUATIONS, 17, 6]
    assert request(bits=[8]).evaluations(1) == request("plan").evaluations(1) == 0
    assert request("plan", refine=3).evaluations(80) == 3


def test_only_a_compression_applies_the_plan_that_it_names() -> None:
    assert request(plan="alias:prod").applies == "alias:prod"
    assert request("transfer", plan="alias:prod").applies is None
    assert request().applies is None
