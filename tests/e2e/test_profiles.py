"""Profiles as real jobs make them: extended, shared by content, around a plan, and compared with a fine-tune.

The first layers of the trained example model with a context of 64 tokens, so that a job takes seconds.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from allocator.jobs.host.retention import clean
from allocator.jobs.machine import progression
from allocator.jobs.machine.executor import Executor
from allocator.jobs.submit import cancel
from allocator.plan.planning import plan_from_profile
from allocator.profiling.artifacts import published_folders
from allocator.profiling.divergence import kl_to_dense
from allocator.stages.intermediate import needed_folders
from allocator.stages.sources import PATH
from allocator.store import Job
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored
from solvers.model.surgery import open_model
from solvers.texts.text import read_text
from tests.support import damage
from tests.support.homes import BUDGETS, WINDOW, Home, opened_home
from tests.support.jobs import items, new_job
from tests.support.models import save, tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One store for all tests that do not count from nothing."""
    with opened_home(tmp_path_factory.mktemp("profiles") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.brief(tmp_path_factory.mktemp("profiled"), window=WINDOW, layers=3)


def test_a_dearer_effort_measures_only_the_rest_and_ends_at_the_same_profile(tmp_path: Path) -> None:
    model, words = tmp_path / "model", random.Random(0)
    save(tiny("llama").float(), model)
    text = " ".join(f"w{words.randrange(61)}" for _ in range(44_000))  # more than one block of windows
    (model / "calibration.txt").write_text(text, encoding="utf-8")
    with opened_home(tmp_path / "one") as home, opened_home(tmp_path / "two") as other:
        fast, standard = home.run(model, effort="fast"), home.run(model, effort="standard")
        alone = other.run(model, effort="standard")
        first, second = home.counts(fast), home.counts(standard)
        assert first["calibrated"] > 0
        assert second["calibrated"] == 0, "moments are shared"
        assert first["again"] == second["again"] == 0
        assert other.counts(alone)["measured"] == first["measured"] + second["measured"]
        assert home.profile(standard) == other.profile(alone), "to the last bit"
        coarse, fine = home.profile(fast), home.profile(standard)
    for before, after in zip(coarse.curves, fine.curves, strict=True):
        points = [{point.rank: point.windows for point in curve.measured} for curve in (before, after)]
        assert points[0].keys() <= points[1].keys()
        assert all(points[1][rank] >= windows for rank, windows in points[0].items())
    assert second["measured"] > 0


def test_a_profile_that_another_team_shares_may_be_named_but_spares_no_measurement(
    model: Path, tmp_path: Path
) -> None:
    with opened_home(tmp_path / "home") as home:
        for team in ("red", "blue"):
            home.store.teams.create(team, actor="op")
        mine = home.run(model, team="red", effort="fast")
        assert mine.profile_key is not None
        home.store.shares.add("red", "profile", mine.profile_key, with_team="blue", by="me")
        compared = home.run(model, "transfer", team="blue", profile=mine.profile_key)
        verdict = json.loads((home.settings.artifacts_dir / compared.id / "transfer.json").read_text())
        assert verdict["verdict"] == "reuse"
        theirs = home.run(model, team="blue", effort="fast")
        assert theirs.profile_key == mine.profile_key
        assert home.counts(theirs)["measured"] == home.counts(mine)["measured"] > 0
        assert home.profile(theirs).shared_by is None
        acts = home.store.audit.find("blue", kind="profile").items
        assert [(act.actor, act.action, act.detail) for act in acts] == [("me", "made", {"job": theirs.id})]


def test_profiles_are_of_weights_not_of_names(home: Home, model: Path, tmp_path: Path) -> None:
    first = home.run(model, effort="fast")
    renamed, changed = tmp_path / "another-name", tmp_path / "changed"
    shutil.copytree(model, renamed)
    shutil.copytree(model, changed)
    same = home.run(renamed, effort="fast")
    assert same.profile_key == first.profile_key
    assert home.counts(same) == {"measured": 0, "again": 0, "calibrated": 0}
    events = home.store.events.list("default", same.id, after=0, limit=100)
    assert "profile reused, 0 forward passes" in [event.message for event in events]
    tensors = load_file(changed / "model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
    tensors[name][0, 0] += 1e-2
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    other = home.run(changed, effort="fast")
    assert other.profile_key != first.profile_key
    assert home.counts(other)["measured"] == home.counts(first)["measured"]


def test_curves_around_a_plan_start_from_what_the_plan_really_loses(home: Home, model: Path) -> None:
    planned = home.run(model, "plan", effort="fast", budgets=BUDGETS)
    plan = home.store.plans.get("default", planned.plan_digest or "")
    profile = home.profile(home.run(model, effort="fast", around=plan.digest))
    around = profile.around
    assert around is not None
    assert (around.plan, around.start) == (plan.digest, plan.chosen)
    # The whole plan, put together by hand and measured against the dense model.
    inspected = reading.inspect(model)
    opened, dense = open_model(reading.load(inspected)), reading.load(inspected)
    text = read_text(model / "calibration.txt", model, window=WINDOW, what="calibration")
    dtype = reading.storage_dtype(inspected)
    layers = list(moments.by_layer(opened, text.fit(4 * 192).split(32)))
    ranks = [{c: getattr(row, c) for c in ("qk", "ov", "mlp")} for row in plan.ranks]
    solutions = [solve_layer(opened.source[index], found) for index, found in enumerate(layers)]
    for index, solution in enumerate(solutions):
        opened.put(index, stored(solution.compressed(**ranks[index]), dtype))
    windows, vocab = text.measure(4 * 16), opened.config.vocab_size
    measured, _ = kl_to_dense(dense, opened, windows, vocab, lambda: None)
    assert around.loss_nats == pytest.approx(measured, rel=1e-3)
    # The same budget around the plan: its own ranks are predicted at their measured loss, and it may do better.
    again = plan_from_profile(profile, BUDGETS)
    assert again.objective != plan.objective
    assert again.predicted.loss_nats <= around.loss_nats + 1e-9
    # One component changed by hand: the curve says what that changes.
    curve = max(profile.curves, key=lambda each: each.measured[1].loss_nats)
    rank = curve.measured[1].rank
    changed = {**ranks[curve.layer], curve.component: rank}
    opened.put(curve.layer, stored(solutions[curve.layer].compressed(**changed), dtype))
    moved, _ = kl_to_dense(dense, opened, windows, vocab, lambda: None)
    own = getattr(plan.ranks[curve.layer], curve.component)
    predicted = around.loss_nats + curve.loss_at(rank) - curve.loss_at(own)
    assert predicted == pytest.approx(moved, rel=0.02)


def test_a_plan_of_other_weights_is_no_surrounding(home: Home, model: Path, tmp_path: Path) -> None:
    planned = home.run(model, "plan", effort="fast", budgets=BUDGETS)
    tuned = fine_tuned(model, tmp_path, steps=1)
    with pytest.raises(AssertionError, match="whose weights are not this model's"):
        home.run(tuned, effort="fast", around=planned.plan_digest)


def test_open_jobs_keep_what_they_need_on_disk(home: Home, model: Path) -> None:
    home.run(model, effort="fast")
    tight = home.settings.model_copy(update={"moments_keep_bytes": 0})
    folders = published_folders(home.settings)
    assert folders
    assert clean(home.store, tight) == [], "used within the hour"
    for each in folders:
        damage.age(each.path)
    assert len(clean(home.store, tight, dry_run=True)) == len(folders)
    waiting = new_job(
        home.store,
        home.settings,
        "profile",
        {"model": f"{PATH}{model}", "solver": "a3", "effort": "standard"},
        inline=True,
    )
    # Up to its calibration, where it is found that nothing is missing.
    Executor(home.store, home.settings).execute(items(home.store, waiting)[0].id, inline=True)
    for each in folders:
        damage.age(each.path)
    job = home.store.jobs.get("default", waiting)
    needed = needed_folders(progression.view(home.store, job, before="profile"), home.settings)
    assert needed
    assert needed <= {each.path.name for each in published_folders(home.settings)}
    clean(home.store, tight)
    assert {each.path.name for each in published_folders(home.settings)} == needed
    cancel(home.store, team="default", job_id=waiting, by="me")
    assert {each.path.name for each in clean(home.store, tight)} == needed


def fine_tuned(model: Path, folder: Path, *, steps: int) -> Path:
    """The model trained a little further, on the text that it is evaluated on."""
    target = folder / f"tuned-{steps}"
    shutil.copytree(model, target)
    tuned = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = read_text(model / "evaluation.txt", model, window=WINDOW, what="evaluation").windows
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-4)
    for step in range(steps):
        batch = ids[step * 8 % 64 :][:8]
        loss = tuned(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    dtype = reading.storage_dtype(reading.inspect(model))
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in tuned.state_dict().items()}
    names = load_file(model / "model.safetensors").keys()
    save_file(
        {name: weights[name] for name in names}, target / "model.safetensors", metadata={"format": "pt"}
    )
    return target


def other_model(model: Path, folder: Path) -> Path:
    """The same shapes with the layers in another order: curves that have little to do with the stored ones."""
    target = folder / "other"
    shutil.copytree(model, target)
    tensors = load_file(model / "model.safetensors")
    layers = 1 + max(int(part) for name in tensors for part in name.split(".") if part.isdigit())

    def moved(name: str) -> str:
        return ".".join(str(layers - 1 - int(part)) if part.isdigit() else part for part in name.split("."))

    changed = {moved(name): tensor for name, tensor in tensors.items()}
    save_file(changed, target / "model.safetensors", metadata={"format": "pt"})
    return target


def verdict(home: Home, job: Job) -> dict[str, Any]:
    return json.loads((home.settings.artifacts_dir / job.id / "transfer.json").read_text(encoding="utf-8"))


def test_a_fine_tune_may_reuse_the_plan_and_another_model_may_not(
    home: Home, model: Path, tmp_path: Path
) -> None:
    planned = home.run(model, "plan", effort="fast", budgets=BUDGETS)
    names = {"profile": planned.profile_key, "plan": planned.plan_digest}
    tuned = fine_tuned(model, tmp_path, steps=12)
    job = home.run(tuned, "transfer", **names)
    found = verdict(home, job)
    assert found["verdict"] == "reuse", found
    assert found["curves"]["spearman"] > 0.95
    assert 0.3 < found["curves"]["median_factor"] < 3
    assert found["plan"]["best_scaled_nats"] <= found["plan"]["scaled_nats"] * (1 + 1e-9)
    # What was probed is kept: a profile of the fine-tune measures the rest, the same question nothing.
    again = home.run(tuned, "transfer", **names)
    assert verdict(home, again)["probes"] == found["probes"]
    profiled = home.run(tuned, effort="fast")
    whole = home.counts(home.run(model, effort="fast"))
    assert whole["measured"] == 0
    assert home.counts(profiled)["measured"] > 0
    truth = {
        (curve.layer, curve.component, point.rank): point.loss_nats
        for curve in home.profile(profiled).curves
        for point in curve.measured
    }
    for probe in found["probes"]:
        assert truth[probe["layer"], probe["component"], probe["rank"]] == probe["found_nats"]
    other = verdict(home, home.run(other_model(model, tmp_path), "transfer", **names))
    assert other["verdict"] == "profile", other["curves"]


def test_the_same_weights_are_recognised_without_measuring(home: Home, model: Path, tmp_path: Path) -> None:
    first = home.run(model, effort="fast")
    renamed = tmp_path / "renamed"
    shutil.copytree(model, renamed)
    job = home.run(renamed, "transfer", profile=first.profile_key)
    found = verdict(home, job)
    assert (found["verdict"], found["same_weights"]) == ("reuse", True)
    assert home.store.items.results(job.id)["probe"][0]["forward_passes"] == 0


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    home: Home, model: Path, tmp_path: Path
) -> None:
    first = home.run(model, effort="fast")
    other = tmp_path / "other-text"
    shutil.copytree(model, other)
    shutil.copyfile(model / "evaluation.txt", other / "calibration.txt")
    with pytest.raises(AssertionError, match="its calibration text is another one"):
        home.run(other, "transfer", profile=first.profile_key)


def test_a_plan_that_does_not_add_up_is_refined_by_what_is_measured(home: Home, model: Path) -> None:
    """At half of the parameters the losses of this model's cuts act on each other; what is stored is what was measured best."""
    request = {"effort": "fast", "budgets": ["block_params=0.5"]}
    plain = home.run(model, "plan", **request)
    job = home.run(model, "plan", **request, refine=12)
    results = home.store.items.results(job.id)
    (result,) = results["refine"]
    record = result["record"]
    assert record["evaluations"] <= 12
    assert record["final_nats"] <= record["start_nats"]
    start, found = (home.store.plans.get("default", each.plan_digest or "") for each in (plain, job))
    assert record["predicted_nats"] == pytest.approx(start.predicted.loss_nats)
    costs = {row.metric: (row.used, row.limit) for row in found.budgets}
    assert all(used <= limit for used, limit in costs.values())
    # The start's loss again, put together by hand.
    inspected = reading.inspect(model)
    opened, dense = open_model(reading.load(inspected)), reading.load(inspected)
    text = read_text(model / "calibration.txt", model, window=WINDOW, what="calibration")
    dtype = reading.storage_dtype(inspected)
    layers = list(moments.by_layer(opened, text.fit(4 * 192).split(32)))
    for plan, name in ((start, "start"), (found, "refined")):
        for index, row in enumerate(plan.ranks):
            solution = solve_layer(opened.source[index], layers[index])
            weights = solution.compressed(**{c: getattr(row, c) for c in ("qk", "ov", "mlp")})
            opened.put(index, stored(weights, dtype))
        measured, _ = kl_to_dense(dense, opened, text.measure(4 * 16), opened.config.vocab_size, lambda: None)
        if result["refined"]:
            assert record["delivered_nats"][name] == pytest.approx(measured, rel=1e-3)
        elif name == "start":
            assert record["start_nats"] == pytest.approx(measured, rel=1e-3)
        for index in range(len(plan.ranks)):
            opened.reset(index)
    if result["refined"]:
        assert found.refinement is not None
        assert found.refinement.start.digest == start.digest != found.digest
    else:
        assert found.digest == start.digest


def test_constraints_reach_the_program_through_a_job(home: Home, model: Path) -> None:
    job = home.run(
        model, "plan", effort="fast", budgets=BUDGETS, constraints={"align": ["mlp=16"], "tie": ["qk"]}
    )
    plan = home.store.plans.get("default", job.plan_digest or "")
    assert {row.mlp % 16 for row in plan.ranks if row.mlp != 352} <= {0}
    assert len({row.qk for row in plan.ranks}) == 1
    with pytest.raises(AssertionError, match="layers from 0 to"):
        home.run(model, "plan", effort="fast", budgets=BUDGETS, constraints={"pin": ["99.qk=2"]})
