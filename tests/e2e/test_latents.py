"""Latents as a real job chooses them: predicted as they are measured, and written as they were planned.

The trained example model with a context of 64 tokens and a short text, so that a job takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from allocator.plan.model.precision import Latent
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from allocator.profiling.divergence import kl_to_dense
from allocator.stages.request import Request
from allocator.stages.sources import PATH
from allocator.stages.stored_plan import resolved_request
from allocator.store import Job
from solvers.a3 import moments
from solvers.a3.compress import in_float64
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored
from solvers.model.surgery import open_model
from solvers.texts.text import read_text
from tests.support import damage
from tests.support.homes import WINDOW, Home, opened_home
from tests.support.latents import SOLVE
from tests.support.plans import ranks_of

BUDGETS = ["kv_bytes_per_token=0.7", "block_params=0.7"]
LATENT = {"solver": "a3+latent"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with opened_home(tmp_path_factory.mktemp("latents") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.brief(tmp_path_factory.mktemp("profiled"), window=WINDOW, calibration=12_000)


@pytest.fixture(scope="module")
def compressed(home: Home, model: Path) -> Job:
    alone = {"export": ["compact", "padded"], "refine": 0, "baselines": "uniform"}
    return home.run(model, "compress", **LATENT, **alone, budgets=BUDGETS)


@pytest.mark.parametrize(("form", "component"), [("joint", "ov"), ("latent", "qk")])
def test_a_curve_predicts_what_a_layer_of_a_latent_loses(
    home: Home, model: Path, compressed: Job, form: Latent, component: str
) -> None:
    profile = home.profile(compressed)
    geometry = profile.model.geometry
    opened = open_model(reading.load(reading.inspect(model)))
    text = read_text(model / "calibration.txt", model, window=WINDOW, what="calibration")
    parts, measured = text.fit(4 * 192).split(32), text.measure(4 * 16)
    found = list(moments.by_layer(opened, parts, forms=(form,)))
    dense = reading.load(reading.inspect(model))
    for layer in (1, 3):
        (curve,) = [c for c in profile.curves if (c.layer, c.component) == (layer, component)]
        known = curve.latents[form]
        assert list(known.ranks) == geometry.latent_ranks(form)
        assert list(known.loss_nats) == sorted(known.loss_nats, reverse=True)
        spot = len(known.ranks) // 3
        rank = known.ranks[spot]
        weights = in_float64(opened.source[layer])
        latent = SOLVE[form](weights, found[layer])
        assert latent is not None
        cut = latent.apply(weights, rank)
        opened.put(layer, stored(cut, reading.storage_dtype(reading.inspect(model))))
        loss = kl_to_dense(dense, opened, measured, geometry.vocab, lambda: None)[0]
        opened.reset(layer)
        assert known.loss_nats[spot] == pytest.approx(loss, rel=0.25)
        # Where it was cut so far, one latent keeps more than as many numbers of each head.
        assert loss < curve.loss_at(rank)


@pytest.mark.parametrize(
    ("stage", "names"),
    [("profile", {"gradients", "layer"}), ("evaluate", {"dense", "uniform", "plan", "uniform_a3"})],
)
def test_progress_ends_at_what_was_stated(home: Home, compressed: Job, stage: str, names: set[str]) -> None:
    """Work is stated before anything runs; what is ticked off while it runs adds up to it."""
    items = home.store.items.of_stage(compressed.id, stage)
    assert {item.key.partition("-")[0] for item in items} == names
    for item in items:
        assert item.progress_total == item.payload["expected"]
        assert item.progress_done == item.progress_total


@torch.no_grad()
def test_a_compression_is_written_as_it_was_planned(home: Home, model: Path, compressed: Job) -> None:
    artifacts = home.settings.artifacts_dir / compressed.id
    plan = json.loads((artifacts / "plan.json").read_text())
    report = json.loads((artifacts / "report.json").read_text())
    ranks = ranks_of(plan["ranks"])
    assert set().union(*ranks.latents) == {"joint", "latent"}
    assert plan["certificate"]["status"] == "optimal"
    assert report["refinement"] is None
    profile = home.profile(compressed)
    by_heads = plan_from_profile(profile, BUDGETS, latents=False)
    assert plan["predicted"]["loss_nats"] < by_heads.predicted.loss_nats
    assert plan["costs"]["kv_bytes_per_token"] <= plan["budgets"][0]["limit"]
    # What it measures is what the written checkpoint does, compact and padded alike.
    text = read_text(model / "calibration.txt", model, window=WINDOW, what="calibration")
    windows, dense = text.measure(4 * 16), reading.load(reading.inspect(model))
    losses = []
    for name in ("compact", "padded"):
        made = AutoModelForCausalLM.from_pretrained(artifacts / name, dtype=torch.float32).eval()
        losses.append(kl_to_dense(dense, made, windows, dense.config.vocab_size, lambda: None)[0])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert report["plan"]["measured_loss_nats"] == pytest.approx(losses[0], rel=0.03)
    shown = f"{ranks.ov[ranks.latents.index(frozenset(('joint',)))]} joint"
    assert shown in (artifacts / "report.html").read_text()


def test_refinement_measures_around_it_and_keeps_forms(home: Home, model: Path, compressed: Job) -> None:
    job = home.run(model, "plan", **LATENT, budgets=["kv_bytes_per_token=0.3"], refine=3)
    assert home.counts(job)["measured"] == 0
    assert job.plan_digest is not None
    (result,) = home.store.items.results(job.id)["refine"]
    assert result["record"]["evaluations"] >= 1
    assert result["record"]["final_nats"] <= result["record"]["start_nats"]
    plan = home.store.plans.get("default", job.plan_digest)
    start = plan.ranks if plan.refinement is None else plan.refinement.start.ranks
    latents = [Ranks.from_layers(rows).latents for rows in (start, plan.ranks)]
    assert any(latents[0])
    assert latents[0] == latents[1]


def test_a_stored_plan_makes_the_same_weights_and_another_profile_is_not_needed(
    home: Home, model: Path, compressed: Job
) -> None:
    request = {"model": f"{PATH}{model}", "plan": compressed.plan_digest}
    request |= {"export": ["compact"], "baselines": "none"}
    stored_request = resolved_request(home.store, "default", Request.stored("compress", request)).document
    del stored_request["model"]
    again = home.run(model, "compress", **stored_request)
    weights = "compact/model.safetensors"
    first, second = (home.settings.artifacts_dir / job.id / weights for job in (compressed, again))
    assert first.read_bytes() == second.read_bytes()
    assert home.counts(again)["measured"] == 0


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"effort": "fast"}, "effort: fast does not go with solver a3.latent"),
        ({"around": "PLAN"}, "around: .* does not go with solver a3.latent"),
    ],
)
def test_what_knows_no_latents_says_so(
    home: Home, model: Path, compressed: Job, request_: dict[str, str], said: str
) -> None:
    named = {name: compressed.plan_digest if value == "PLAN" else value for name, value in request_.items()}
    with pytest.raises(AssertionError, match=said):
        home.run(model, **LATENT, **named)


def test_no_curves_are_measured_around_them(home: Home, model: Path, compressed: Job) -> None:
    with pytest.raises(AssertionError, match="has latents; use a plan without latents"):
        home.run(model, solver="a3+", around=compressed.plan_digest)
