"""Requests for plans and jobs that were changed in a few places: carried out, or a problem with a 4xx; never a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.plan.ask.budgets import parse_budget, parse_metric
from allocator.plan.ask.constraints import KINDS, parse_constraints
from allocator.plan.documents.plan import Plan
from allocator.plan.explain import explain
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from api.app import create_app
from tests.hostile.mutation import bytes_changed, changed, fuzz
from tests.support.profiles import SMALL, small_profile

PLAN: dict[str, Any] = {
    "profile_key": "small",
    "budgets": ["block_params=0.8", "memory=1MiB@batch=2,context=64"],
    "allocation": "ilp",
    "constraints": {"align": ["mlp=16"], "min_rank": ["ov=0.25"], "pin": ["0.qk=dense"], "tie": ["mlp:0-1"]},
}
JOB: dict[str, Any] = {
    "kind": "compress",
    "model": "local:tiny",
    "budgets": ["params=0.8"],
    "export": ["compact"],
    "constraints": {"pin": ["*.qk=0.5"]},
    "heal": 3,
    "refine": 0,
    "effort": "fast",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("fuzz")
    settings = Settings(home=home / "home", model_roots=[home / "models"])
    folder = home / "models" / "tiny"
    folder.mkdir(parents=True)
    for name in ("config.json", "calibration.txt", "evaluation.txt"):
        (folder / name).write_text("{}")
    store = Store.open(settings, create=True)
    store.profiles.put("default", small_profile())
    with TestClient(
        create_app(settings, store=store), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as found:
        yield found
    store.close()


def answered(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) < 20_000


@fuzz
@given(data=st.data())
def test_a_changed_request_for_a_plan(client: TestClient, data: st.DataObject) -> None:
    answered(client, "/v1/plans", json.dumps(changed(data, PLAN)).encode())


@fuzz
@given(data=st.data())
def test_a_changed_job(client: TestClient, data: st.DataObject) -> None:
    answered(client, "/v1/jobs", json.dumps(changed(data, JOB)).encode())


@fuzz
@given(data=st.data(), path=st.sampled_from(["/v1/jobs", "/v1/plans"]))
def test_changed_bytes_of_a_request(client: TestClient, data: st.DataObject, path: str) -> None:
    answered(client, path, bytes_changed(data, json.dumps(JOB if path == "/v1/jobs" else PLAN).encode()))


@fuzz
@given(
    text=st.from_regex(
        r"(params|memory|flops_per_token)=[0-9.eEKMGiB]{0,12}(@[a-z=0-9,]{0,20})?", fullmatch=True
    )
    | st.text(max_size=30)
)
def test_budgets_are_read_or_refused(text: str) -> None:
    for read in (parse_budget, parse_metric):
        try:
            read(text)
        except InvalidInput as error:
            assert error.fields


@fuzz
@given(
    kind=st.sampled_from(KINDS),
    texts=st.lists(
        st.from_regex(r"([0-9*-]{1,4}\.)?(qk|ov|mlp)?[=:]?[0-9.e/_-]{0,6}(dense)?", fullmatch=True),
        max_size=4,
    ),
)
def test_constraints_are_read_or_refused(kind: str, texts: list[str]) -> None:
    try:
        parse_constraints({kind: texts}, SMALL)
    except InvalidInput as error:
        assert error.fields


@fuzz
@given(
    budget=st.integers(30, 99),
    pins=st.lists(st.sampled_from(["0.qk=0.5", "1.mlp=dense", "*.ov=0.9"]), max_size=3),
)
def test_whatever_is_planned_can_be_explained_from_its_json(budget: int, pins: list[str]) -> None:
    profile = small_profile()
    try:
        plan = plan_from_profile(profile, [f"block_params=0.{budget}"], constraints={"pin": pins})
    except InvalidInput:
        return
    except Exception as error:
        assert type(error).__name__ == "BudgetInfeasible"
        return
    assert explain(Plan.stored(json.loads(json.dumps(plan.document))), profile).components
