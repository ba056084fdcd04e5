"""Solution methods: one registry, that needs no torch, and that everything that names a method is made from."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.methods.registry import DEFAULT_METHOD, METHODS, PAPER, method_of
from allocator.plan.files.portable import Imported
from allocator.plan.identity import Identity
from allocator.stages.intermediate import needed_folders
from allocator.stages.pipeline import JobView
from allocator.stages.request import Request
from allocator.store import Store
from api.app import create_app
from api.reference.tables import methods_table
from solvers.a3 import moments as moments_module
from solvers.a3.compress import solve_layer
from solvers.a3.steps import A3, A3_PLUS
from solvers.model.surgery import open_model
from tests.support.models import CASES, case_id, tiny, token_ids
from tests.support.profiles import measured_profile, small_profile


def test_versions_are_those_that_stored_profiles_were_made_with() -> None:
    """They are part of every content key."""
    assert {name: method.version for name, method in METHODS.items() if name in ("a3", "a3+")} == {
        "a3": "a3/2",
        "a3+": "a3+/2",
    }
    assert METHODS[PAPER.name] is PAPER
    assert DEFAULT_METHOD in METHODS


def test_methods_are_listed_without_torch() -> None:
    code = (
        "import sys; from allocator.methods.registry import METHODS; "
        "print(*METHODS, *({'torch', 'solvers', 'transformers'} & set(sys.modules)))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == list(METHODS)


@pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
def test_a3_and_a3_plus_are_the_steps_that_ablations_take(family: str, options: dict[str, Any]) -> None:
    opened = open_model(tiny(family, **options))
    moments = moments_module.collect(opened, token_ids(24, 30, seed=5))[1]
    for name, steps in (("a3", A3), ("a3+", A3_PLUS)):
        method = METHODS[name].solve(opened.source[1], moments)
        stepped = solve_layer(opened.source[1], moments, steps)
        for component, rank in (("qk", 4), ("ov", 3), ("mlp", 20)):
            if component in opened.family.fixed:
                continue
            ours, theirs = (each.compressed(**{component: rank}).tensors() for each in (method, stepped))
            assert ours.keys() == theirs.keys()
            for tensor in ours:
                assert torch.equal(ours[tensor], theirs[tensor]), (name, component, tensor)


def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(store: Store) -> None:
    with pytest.raises(InvalidInput, match="solver: 'a4' is unknown; use one of a3, a3") as caught:
        method_of("a4")
    (field,) = caught.value.fields
    assert (field.field, field.found, field.allowed) == ("solver", "a4", ", ".join(METHODS))
    file = Imported(small_profile("ab" * 32).replaced(solver="a4"), "cd" * 32)
    with pytest.raises(InvalidInput, match=r"profile\.solver: 'a4' is unknown"):
        store.profiles.take_in("default", file.to_store(trust=False, by="ada", at="now"), by="ada")
    assert not store.profiles.exists("default", file.own_key)


def test_open_jobs_keep_the_folders_that_their_method_reads(settings: Settings) -> None:
    """Of a job of another version everything: its method may read whatever there is."""
    document = measured_profile().identity
    moments, solved = Identity(document).moments_key(), Identity(document).solved_key()
    for solver, names in (
        ("a3", {moments}),
        ("a3+", {moments, solved}),
        ("svd", set()),
        ("a4", {moments, solved}),
    ):
        facts = {"solver": solver, "identity": document}
        job = JobView("j", "default", Request(kind="profile", model="local:m"), {"prepare": [facts]})
        assert needed_folders(job, settings) == names, solver


def test_requests_and_forms_offer_every_method(settings: Settings, store: Store) -> None:
    client = TestClient(create_app(settings, store=store), base_url="http://127.0.0.1")
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    (choices,) = (
        each["enum"] for each in schemas["JobRequest"]["properties"]["solver"]["anyOf"] if "enum" in each
    )
    assert choices == list(METHODS)
    form = client.get("/", headers={"accept": "text/html"}).text
    for name in METHODS:
        assert f">{name}</option>" in form
        assert f"| `{name}` " in methods_table()
