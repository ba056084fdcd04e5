"""Queries whose heads stay whole and that may be made of a latent: plans, constraints, measurements, figures."""

from __future__ import annotations

import json

import pytest

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.documents.profile import Profile
from allocator.plan.effort import EFFORTS
from allocator.plan.explain import explain
from allocator.plan.files.plan_file import read_plan
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.identity import identity
from allocator.plan.metrics.costs import CostModel
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.feasibility import feasibility_program
from allocator.plan.program.solve import check_feasible
from allocator.plan.transfer import choose_probes, judge
from allocator.report.figures.profile import curves, heatmap
from api.cli.profile_tables import points_table
from tests.allocator.test_latents import BOTH, WHOLE_QUERIES
from tests.support.profiles import SMALL, gradient_profile


def test_queries_that_are_left_whole_may_be_made_of_a_latent() -> None:
    ranks = SMALL.latent_ranks("latent")
    assert WHOLE_QUERIES.latent_ranks("latent") == ranks == [2, 4, 6]
    profile = gradient_profile(WHOLE_QUERIES, latents=BOTH)
    others = {"pin": ["0-1.ov=dense", "0-1.mlp=dense"]}
    budgets = ["block_params=0.95"]
    plan = plan_from_profile(profile, budgets, constraints=others)
    forms = [(row.qk, row.qk_form) for row in plan.ranks]
    assert {form for _, form in forms} <= {"latent", None}
    assert any(form == "latent" and rank in ranks for rank, form in forms)
    assert all(rank == SMALL.head_dim for rank, form in forms if form is None)
    assert plan.costs["kv_bytes_per_token"] == plan.dense["kv_bytes_per_token"]
    assert read_plan(json.dumps(plan.document).encode()) == plan
    assert import_profile(export_profile(profile)).profile.curves == profile.curves
    why = {row.layer: row.why for row in explain(plan, profile).components if row.component == "qk"}
    for row in plan.ranks:
        assert ("with queries of one latent" if row.qk_form else "no other rank in this form") in why[
            row.layer
        ]
    # No ratio of heads meets it, so that there is nothing uniform beside it.
    assert plan.baseline == {}
    with pytest.raises(InvalidInput, match="bits, or latents"):
        plan_from_profile(profile, budgets, constraints=others, allocation="uniform")
    # Whoever cannot compute latents is told so before anything is measured, whoever can is not.
    costs, parsed = CostModel(WHOLE_QUERIES), parse_budgets(budgets)
    check_feasible(*feasibility_program(costs, parsed, others, latents={"latent": ranks}))
    for refused in ({}, {"latents": {"latent": ranks}}):
        limits = {**others, "target": ["llama.cpp"]} if refused else others
        with pytest.raises(BudgetInfeasible):
            check_feasible(*feasibility_program(costs, parsed, limits, **refused))
    with pytest.raises(BudgetInfeasible):
        plan_from_profile(profile, budgets, constraints=others, latents=False)


def test_constraints_reach_latents_of_whole_queries() -> None:
    profile = gradient_profile(WHOLE_QUERIES, latents=BOTH)
    for constraints, allowed in (
        ({"pin": ["0-1.qk=dense"]}, {(16, None)}),
        ({"pin": ["0-1.qk=4"]}, {(4, "latent")}),
        ({"min_rank": ["qk=5"]}, {(6, "latent"), (16, None)}),
        ({"align": ["qk=4"]}, {(4, "latent"), (16, None)}),
    ):
        plan = plan_from_profile(profile, ["block_params=0.8"], constraints=constraints)
        assert {(row.qk, row.qk_form) for row in plan.ranks} <= allowed
        # Uniform ranks are of heads: where a constraint leaves none of them, there are no such ranks.
        uniform = plan.baseline.get("uniform")
        assert (uniform is None) == ((16, None) not in allowed)
        assert uniform is None or {row.qk for row in uniform.ranks} == {16}
    with pytest.raises(InvalidInput, match="uniform meets them at no ratio"):
        plan_from_profile(
            profile, ["block_params=0.9"], constraints={"pin": ["0-1.qk=4"]}, allocation="uniform"
        )
    with pytest.raises(InvalidInput, match="layer 0 qk may take"):
        plan_from_profile(profile, ["block_params=0.8"], constraints={"pin": ["0.qk=8"]})


def test_a_fine_tune_is_asked_about_latents_of_whole_queries_too() -> None:
    """One factor for everything changes no plan and scales its loss."""
    profile = gradient_profile(WHOLE_QUERIES, latents=BOTH)
    plan = plan_from_profile(profile, ["block_params=0.8"])
    probes = choose_probes(profile, plan)
    assert {probe.component for probe in probes} == {"latent", "ov", "mlp"}
    verdict = judge(profile, probes, [2 * probe.stored_nats for probe in probes], plan)
    assert verdict["verdict"] == "reuse"
    assert verdict["plan"]["scaled_nats"] == pytest.approx(2 * plan.predicted.loss_nats)
    assert verdict["plan"]["regret"] == pytest.approx(0)


def test_latents_of_whole_queries_are_shown_where_heads_are() -> None:
    profile = gradient_profile(WHOLE_QUERIES, latents=BOTH)
    (qk, *_) = profile.curves
    assert (qk.cut_form, qk.cut.ranks) == ("latent", (2, 4, 6))
    figure = curves(profile, component="qk", chosen=plan_from_profile(profile, ["block_params=0.8"]).chosen)
    assert [row[1] for row in figure.rows] == ["2 of 16 latent", "4 of 16 latent"] * 2
    assert any("heads stay whole" in row for row in heatmap(profile).rows)
    assert points_table([qk]).row_count == 2


def test_identities_tell_latents_that_are_measured() -> None:
    """What earlier units hold of such a model lacks them."""
    solutions = []
    for geometry in (SMALL, WHOLE_QUERIES):
        names = ("weights_sha256", "config_sha256", "tokenizer_sha256", "calibration_sha256")
        named = identity(
            **dict.fromkeys(names, "a" * 64), geometry=geometry, window_tokens=64, prefix=[], fit_windows=8,
            solver_version="a3+latent/1", effort=EFFORTS["gradient"], latents=BOTH,
        )  # fmt: skip
        solutions.append([named.document["solution"][form] for form in BOTH])
    assert solutions == [[True, True], ["measured", True]]


def test_latents_of_whole_queries_are_measured_and_scaled_by_that() -> None:
    profile = gradient_profile(WHOLE_QUERIES.replaced(layers=12, total_params=600_000), latents=("latent",))
    assert profile.gradients is not None
    scales = profile.gradients.scales
    assert scales is not None
    assert scales["qk"].factor == pytest.approx(1.25, rel=1e-3)
    measured = 0
    for curve in profile.curves:
        for of_latent in curve.latents.values():
            assert curve.measured == ()
            measured += len(of_latent.measured)
            for loss, point in zip(of_latent.loss_nats, of_latent.predicted, strict=True):
                assert loss / point.loss_nats == pytest.approx(1.25, rel=1e-3)
    assert scales["qk"].points == measured == 2 * 4
    for change, message in (
        ({"measured": of_latent.model_dump()["measured"][1:]}, "the first of them 2"),
        ({"measured": [{"rank": 3, "loss_nats": 0.1, "stderr_nats": 0, "windows": 1}]}, "ranks of"),
    ):
        damaged = profile.document
        damaged["curves"][0]["latent"] |= change
        with pytest.raises(InvalidInput, match=message):
            export_profile(Profile.stored(damaged))
    cuttable = gradient_profile(latents=("latent",)).document
    point = {"rank": 2, "loss_nats": 0.1, "stderr_nats": 0, "windows": 1}
    cuttable["curves"][0]["latent"]["measured"] = [point]
    with pytest.raises(InvalidInput, match="heads can be cut"):
        export_profile(Profile.stored(cuttable))
