"""Queries and values of latents beside those of single heads in one program: what they cost, which are chosen, and where there
are none.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.differences import diff_plans
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.effort import EFFORTS
from allocator.plan.explain import explain
from allocator.plan.files.plan_file import read_plan
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.frontier import frontier_of, plan_at
from allocator.plan.identity import identity
from allocator.plan.inverse import minimize
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.costs import CostModel
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import Latent
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile, question_of, refined_plan
from allocator.plan.program.problem import feasibility_program, question
from allocator.plan.program.solve import check_feasible
from allocator.plan.refinement import refine
from allocator.plan.targets.held import misfit
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.plan.transfer import choose_probes, judge, scaled_profile
from allocator.report.figures.profile import curves, heatmap
from api.cli.profile_tables import points_table
from tests.support.plans import plan_file, ranks_of
from tests.support.profiles import SMALL, gradient_profile
from tests.support.programs import check_solved, least_loss_of_options

WHOLE_QUERIES = SMALL.replaced(fixed=("qk",))
"""As of a family that normalizes them."""
BOTH: tuple[Latent, ...] = ("latent", "joint")
CACHE = ["kv_bytes_per_token=0.5"]
LATENT_ROWS = [
    {"layer": 0, "qk": 8, "ov": 6, "mlp": 64, "ov_form": "joint"},
    {"layer": 1, "qk": 4, "ov": 16, "mlp": 128, "qk_form": "latent"},
]


def test_ranks_come_back_from_their_rows() -> None:
    ranks = ranks_of(LATENT_ROWS)
    assert (ranks.latents, ranks.bits) == (({"joint"}, {"latent"}), ())
    assert ranks.at(0, "ov") == (6, "joint")
    assert (ranks.at(0, "qk"), ranks.at(1, "qk")) == ((8, None), (4, "latent"))
    assert ranks.layers() == LATENT_ROWS
    plain = [{k: v for k, v in row.items() if not k.endswith("_form")} for row in LATENT_ROWS]
    assert ranks_of(plain).layers() == plain
    assert ranks.with_latents([(), ()]) == ranks_of(plain)


def test_ranks_at_which_values_may_be_joint() -> None:
    assert SMALL.latent_ranks("joint") == list(range(1, 16))
    assert SMALL.replaced(head_dim=64).latent_ranks("joint") == list(range(4, 64, 4))
    assert SMALL.replaced(head_dim=80).latent_ranks("joint") == list(range(5, 80, 5))
    assert SMALL.replaced(head_dim=256).latent_ranks("joint") == list(range(16, 256, 16))
    assert (
        SMALL.replaced(kv_heads=1).latent_ranks("joint")
        == SMALL.replaced(fixed=("ov",)).latent_ranks("joint")
        == []
    )


@st.composite
def profiles(draw: Any) -> Profile:
    """Few ranks a component, so that all plans can be tried."""
    geometry = draw(st.sampled_from([SMALL, WHOLE_QUERIES]))
    profile = gradient_profile(geometry, seed=draw(st.integers(0, 50)), latents=BOTH)
    curves = []
    for whole in profile.curves:
        last = len(whole.ranks) - 1
        kept = sorted({0, *draw(st.sets(st.integers(0, last), min_size=1, max_size=2)), last})
        names = ("ranks", "analytic", "loss_nats")
        curve = whole.replaced(**{n: [getattr(whole, n)[k] for k in kept] for n in names})
        for form, of_latent in whole.latents.items():
            # The program asks at ranks that the component has at all.
            asked = curve.choosable()
            spots = [of_latent.ranks.index(rank) for rank in asked if rank in of_latent.ranks]
            names = ("ranks", "loss_nats", "predicted")
            fewer = {n: [getattr(of_latent, n)[k] for k in spots] for n in names}
            curve = curve.replaced(**{form: of_latent.replaced(**fewer)})
        curves.append(curve)
    return profile.replaced(curves=tuple(curves))


@given(profiles(), st.floats(0.02, 1), st.floats(0.3, 1))
@settings(max_examples=25, deadline=None)
def test_plans_are_the_best_of_all_ranks_and_forms(profile: Profile, cache: float, params: float) -> None:
    budgets = parse_budgets([f"kv_bytes_per_token={cache:.3f}", f"block_params={params:.3f}"])
    costs = CostModel(profile.model.geometry)
    curves = list(profile.curves)
    best = least_loss_of_options(costs, curves, [curve.options(()) for curve in curves], budgets)
    check_solved(lambda: question(profile, budgets), best)


def test_the_first_option_is_the_least_for_every_budget() -> None:
    budgets = parse_budgets(
        ["params=0.5", "kv_bytes_per_token=0.5", "memory=0.9@context=64"]
        + [f"flops_per_token=0.9@context=64,phase={phase}" for phase in ("prefill", "decode")]
    )
    for constraints in (None, {"min_rank": ["ov=3"]}, {"pin": ["0.ov=8"]}, {"tie": ["ov"]}, {"align": ["4"]}):
        for geometry in (SMALL, WHOLE_QUERIES):
            asked = question(gradient_profile(geometry, latents=BOTH), budgets, constraints)
            for group in asked.groups:
                for costs in group.costs:
                    assert min(costs) == costs[0]


def test_queries_that_are_left_whole_may_be_made_of_a_latent() -> None:
    ranks = SMALL.latent_ranks("latent")
    assert WHOLE_QUERIES.latent_ranks("latent") == ranks == [2, 4, 6]
    profile = gradient_profile(WHOLE_QUERIES, latents=BOTH)
    others = {"pin": ["0-1.ov=dense", "0-1.mlp=dense"]}
    budgets = ["block_params=0.95"]
    plan = plan_from_profile(profile, budgets, constraints=others)
    chosen = [(row.qk, row.qk_form) for row in plan.ranks]
    assert {form for _, form in chosen} <= {"latent", None}
    assert any(form == "latent" and rank in ranks for rank, form in chosen)
    assert all(rank == SMALL.head_dim for rank, form in chosen if form is None)
    assert plan.costs["kv_bytes_per_token"] == plan.dense["kv_bytes_per_token"]
    assert read_plan(json.dumps(plan.document).encode()) == plan
    assert import_profile(export_profile(profile)).profile.curves == profile.curves
    why = {
        row["layer"]: row["why"] for row in explain(plan, profile)["components"] if row["component"] == "qk"
    }
    for row in plan.ranks:
        assert ("with queries of one latent" if row.qk_form else "no other rank in this form") in why[
            row.layer
        ]
    # No ratio of heads meets it, so that there is nothing uniform beside it.
    assert plan.baseline == {}
    with pytest.raises(InvalidInput, match="bits, or latents"):
        plan_from_profile(profile, budgets, constraints=others, allocation="uniform")
    # Whoever cannot compute latents is told so before anything is measured, whoever can is not.
    costs, asked = CostModel(WHOLE_QUERIES), parse_budgets(budgets)
    check_feasible(*feasibility_program(costs, asked, others, latents={"latent": ranks}))
    for refused in ({}, {"latents": {"latent": ranks}}):
        limits = {**others, "target": ["llama.cpp"]} if refused else others
        with pytest.raises(BudgetInfeasible):
            check_feasible(*feasibility_program(costs, asked, limits, **refused))
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
    found = judge(profile, probes, [2 * probe.stored_nats for probe in probes], plan)
    assert found["verdict"] == "reuse"
    assert found["plan"]["scaled_nats"] == pytest.approx(2 * plan.predicted.loss_nats)
    assert found["plan"]["regret"] == pytest.approx(0)


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
    for change, said in (
        ({"measured": of_latent.model_dump()["measured"][1:]}, "the first of them 2"),
        ({"measured": [{"rank": 3, "loss_nats": 0.1, "stderr_nats": 0, "windows": 1}]}, "ranks of"),
    ):
        damaged = profile.document
        damaged["curves"][0]["latent"] |= change
        with pytest.raises(InvalidInput, match=said):
            export_profile(Profile.stored(damaged))
    cuttable = gradient_profile(latents=("latent",)).document
    point = {"rank": 2, "loss_nats": 0.1, "stderr_nats": 0, "windows": 1}
    cuttable["curves"][0]["latent"]["measured"] = [point]
    with pytest.raises(InvalidInput, match="heads can be cut"):
        export_profile(Profile.stored(cuttable))


def test_a_plan_says_which_values_are_joint_and_loses_less_for_the_same_cache() -> None:
    profile = gradient_profile(latents=BOTH)
    plan, heads = plan_from_profile(profile, CACHE), plan_from_profile(profile, CACHE, latents=False)
    assert [row.ov_form for row in plan.ranks] == ["joint", "joint"]
    assert plan.joint is True
    assert not any(row.ov_form for row in heads.ranks)
    assert plan.predicted.loss_nats < 0.8 * heads.predicted.loss_nats
    assert plan.budgets[0].used <= plan.budgets[0].limit
    asked = question_of(plan, profile)
    assert asked.latents == BOTH
    assert asked.choice(plan.chosen)
    assert plan.digest == plan.own_digest
    moved = tuple(row.without("ov_form") for row in plan.ranks)
    assert plan.replaced(ranks=moved).own_digest != plan.digest
    # A profile that knows none gives the plans that it always gave, to the digest.
    plain = gradient_profile()
    assert heads.ranks == plan_from_profile(plain, CACHE).ranks
    assert "joint" not in plan_from_profile(plain, CACHE).document
    changed = diff_plans(heads, plan, profile)["changes"]
    assert {(c["from_latent"], c["to_latent"]) for c in changed if c["component"] == "ov"} == {
        (None, "joint")
    }
    assert all(" joint" in c["text"] for c in changed if c["component"] == "ov")
    (first, *_) = (c for c in explain(plan, profile)["components"] if c["component"] == "ov")
    assert (first["ov_form"], first["bits"]) == ("joint", None)
    assert "in one latent of all heads" in first["why"]


def test_frontier_and_inverse_know_joint_values() -> None:
    profile = gradient_profile(latents=BOTH)
    frontier = frontier_of(profile, ["kv_bytes_per_token"], points=4)
    plan = plan_at(profile, frontier, 1)
    assert plan.predicted.loss_nats == pytest.approx(frontier.points[1].loss_nats)
    assert plan.chosen.latents
    least = minimize(profile, "kv_bytes_per_token", max_loss_nats=plan.predicted.loss_nats)
    assert least.budgets[0].used <= plan.budgets[0].used
    assert least.joint is True


@dataclass
class Interacting:
    """Measures components that hurt more together than each alone, MLPs most; notes what it is asked."""

    curves: list[Curve]
    asked: list[Ranks] = field(default_factory=list)

    def plan(self, ranks: Ranks) -> float:
        self.asked.append(ranks)
        each = [
            (3 if curve.component == "mlp" else 1) * curve.loss_at(*ranks.at(curve.layer, curve.component))
            for curve in self.curves
        ]
        return sum(each) + sum(map(math.sqrt, each)) ** 2

    def changes(self, ranks: Ranks, wanted: Any) -> dict[Any, float]:
        base = self.plan(ranks)
        found = {}
        for (layer, component), each in wanted.items():
            for rank in each:
                rows = ranks.layers()
                rows[layer][component] = rank
                found[(layer, component), rank] = self.plan(ranks_of(rows)) - base
        return found


def test_refinement_moves_ranks_and_keeps_forms() -> None:
    profile = gradient_profile(latents=BOTH)
    plan = plan_from_profile(profile, ["kv_bytes_per_token=0.6", "block_params=0.8"])
    start, asked = plan.chosen, question_of(plan, profile)
    assert any(start.latents)
    measure = Interacting(list(profile.curves))
    ranks, record = refine(asked, start, measure, evaluations=60)
    assert record.final_nats < record.start_nats
    assert {each.latents for each in measure.asked} == {start.latents}
    for budget, row in zip(asked.budgets, asked.rows, strict=True):
        assert asked.costs.total(budget.metric, ranks) <= row.limit
    refined = refined_plan(plan, profile, ranks, record.document())
    assert read_plan(json.dumps(refined.document).encode()) == refined
    # Where there is nothing to choose from, the question is the same one.
    plain = question(gradient_profile(), parse_budgets(CACHE))
    assert plain.in_forms_of(Ranks.dense(SMALL)) is plain


@pytest.mark.parametrize("target", [name for name in TARGETS if name != PLAIN.name])
def test_an_engine_is_offered_what_it_computes_and_takes_nothing_else(target: str) -> None:
    profile = gradient_profile(latents=BOTH)
    asked = question(profile, parse_budgets(["params=0.95"]), {"target": [target]})
    queries = target.startswith("vllm")
    assert asked.latents == (("latent",) if queries else ())
    offered = {form for options in asked.by_place().values() for _, form in options}
    assert offered == ({None, "latent"} if queries else {None})
    for rows in (LATENT_ROWS, LATENT_ROWS[::-1]):
        ranks = ranks_of([{**row, "layer": layer} for layer, row in enumerate(rows)])
        fault = misfit(TARGETS[target], SMALL, ranks)
        assert fault is not None
        if not fault.startswith(f"{target} cannot serve"):
            assert "is joint, and" in fault or (not queries and "is latent, and" in fault)


def test_vllm_holds_whole_heads_where_queries_have_a_latent() -> None:
    rows = [
        {"layer": 0, "qk": 2, "ov": 4, "mlp": 64, "qk_form": "latent"},
        {"layer": 1, "qk": 2, "ov": 4, "mlp": 64},
    ]
    costs, cache = CostModel(SMALL, target=TARGETS["vllm"]), Metric("kv_bytes_per_token")
    sizes = [2 * SMALL.kv_heads * size * SMALL.bytes_per_param for size in (SMALL.head_dim, 8)]
    assert costs.total(cache, ranks_of(rows)) == sum(sizes)
    profile, limits = gradient_profile(latents=BOTH), {"target": ["vllm"], "min_rank": ["mlp=128"]}
    plan = plan_from_profile(profile, ["block_params=0.95"], constraints=limits)
    forms = [row.qk_form for row in plan.ranks]
    assert sorted(map(str, forms)) == ["None", "latent"]
    budget = plan.budgets[0]
    assert plan.costs["kv_bytes_per_token"] == costs.total(cache, plan.chosen)
    whys = {c["layer"]: c["why"] for c in explain(plan, profile)["components"] if c["component"] == "qk"}
    assert ["with queries of one latent" in whys[layer] for layer in range(2)] == [
        form == "latent" for form in forms
    ]
    assert budget.used <= budget.limit


def test_a_plan_file_with_joint_values_is_read_and_what_cannot_be_is_refused() -> None:
    plan = plan_from_profile(gradient_profile(latents=BOTH), CACHE)
    assert read_plan(json.dumps(plan.document).encode()) == plan
    for change, said in (
        ({"ov_form": "shared"}, r"ranks\[0\].ov_form: found 'shared'; Input should be 'joint'"),
        ({"ov": SMALL.head_dim}, "ov has rank 16 in the form 'joint'"),
        ({"bits": {"ov": 8}}, "joint and in bits"),
    ):
        first, *others = plan.chosen.layers()
        with pytest.raises(InvalidInput, match=said):
            read_plan(plan_file({**plan.document, "ranks": [{**first, **change}, *others]}))
    alone = SMALL.replaced(kv_heads=1, heads=4)
    assert alone.latent_ranks("joint") == []


def test_a_profile_file_carries_what_joint_values_lose() -> None:
    profile = gradient_profile(latents=BOTH)
    back = import_profile(export_profile(profile)).profile
    assert back.curves == profile.curves
    assert plan_from_profile(back, CACHE).ranks == plan_from_profile(profile, CACHE).ranks
    for spot, form in enumerate(BOTH):
        damaged = profile.document
        damaged["curves"][spot][form]["predicted"].pop()
        with pytest.raises(InvalidInput, match=rf"curves\[{spot}\].{form}"):
            export_profile(Profile.stored(damaged))


def test_factors_of_a_fine_tune_scale_joint_values_too() -> None:
    profile = gradient_profile(latents=BOTH)
    scaled = scaled_profile(profile, {"ov": ([0], [math.log(3)])})
    for before, after in zip(profile.curves, scaled.curves, strict=True):
        factor = 3 if before.component == "ov" else 1
        for form in BOTH:
            both = before.latents.get(form, before).loss_nats, after.latents.get(form, after).loss_nats
            assert both[1] == pytest.approx([factor * loss for loss in both[0]])


def test_geometry_is_that_of_old_files() -> None:
    """Nothing was added to what plans and profiles are named by."""
    assert Geometry.stored(SMALL.document) == SMALL
    assert "joint" not in json.dumps(SMALL.document)
