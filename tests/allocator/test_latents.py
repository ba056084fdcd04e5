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

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.differences import diff_plans
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.explain import explain
from allocator.plan.files.plan_file import read_plan
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.frontier import frontier_of, plan_at
from allocator.plan.inverse import minimize
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import Latent
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile, question_of, refined_plan
from allocator.plan.program.problem import question
from allocator.plan.refinement import refine
from allocator.plan.targets.held import misfit
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.plan.transfer import scaled_profile
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
    for full_curve in profile.curves:
        last = len(full_curve.ranks) - 1
        spots = sorted({0, *draw(st.sets(st.integers(0, last), min_size=1, max_size=2)), last})
        names = ("ranks", "analytic", "loss_nats")
        curve = full_curve.replaced(**{n: [getattr(full_curve, n)[k] for k in spots] for n in names})
        for form, of_latent in full_curve.latents.items():
            # The program asks at ranks that the component has at all.
            choosable = curve.choosable()
            latent_spots = [of_latent.ranks.index(rank) for rank in choosable if rank in of_latent.ranks]
            names = ("ranks", "loss_nats", "predicted")
            fewer = {n: [getattr(of_latent, n)[k] for k in latent_spots] for n in names}
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
            program = question(gradient_profile(geometry, latents=BOTH), budgets, constraints)
            for group in program.groups:
                for costs in group.costs:
                    assert min(costs) == costs[0]


def test_a_plan_says_which_values_are_joint_and_loses_less_for_the_same_cache() -> None:
    profile = gradient_profile(latents=BOTH)
    plan, heads = plan_from_profile(profile, CACHE), plan_from_profile(profile, CACHE, latents=False)
    assert [row.ov_form for row in plan.ranks] == ["joint", "joint"]
    assert plan.joint is True
    assert not any(row.ov_form for row in heads.ranks)
    assert plan.predicted.loss_nats < 0.8 * heads.predicted.loss_nats
    assert plan.budgets[0].used <= plan.budgets[0].limit
    planned = question_of(plan, profile)
    assert planned.latents == BOTH
    assert planned.choice(plan.chosen)
    assert plan.digest == plan.own_digest
    moved = tuple(row.without("ov_form") for row in plan.ranks)
    assert plan.replaced(ranks=moved).own_digest != plan.digest
    # A profile that knows none gives the plans that it always gave, to the digest.
    plain = gradient_profile()
    assert heads.ranks == plan_from_profile(plain, CACHE).ranks
    assert "joint" not in plan_from_profile(plain, CACHE).document
    changed = diff_plans(heads, plan, profile).changes
    assert {(c.from_latent, c.to_latent) for c in changed if c.component == "ov"} == {(None, "joint")}
    assert all(" joint" in c.text for c in changed if c.component == "ov")
    (first, *_) = (c for c in explain(plan, profile).components if c.component == "ov")
    assert (first.ov_form, first.bits) == ("joint", None)
    assert "in one latent of all heads" in first.why


def test_frontier_and_inverse_know_joint_values() -> None:
    profile = gradient_profile(latents=BOTH)
    frontier = frontier_of(profile, ["kv_bytes_per_token"], points=4)
    plan = plan_at(profile, frontier, 1)
    assert plan.predicted.loss_nats == pytest.approx(frontier.points[1].loss_nats)
    assert plan.chosen.latents
    smallest = minimize(profile, "kv_bytes_per_token", max_loss_nats=plan.predicted.loss_nats)
    assert smallest.budgets[0].used <= plan.budgets[0].used
    assert smallest.joint is True


@dataclass
class Interacting:
    """Measures components that hurt more together than each alone, MLPs most; notes its requests."""

    curves: list[Curve]
    requests: list[Ranks] = field(default_factory=list)

    def plan(self, ranks: Ranks) -> float:
        self.requests.append(ranks)
        losses = [
            (3 if curve.component == "mlp" else 1) * curve.loss_at(*ranks.at(curve.layer, curve.component))
            for curve in self.curves
        ]
        return sum(losses) + sum(map(math.sqrt, losses)) ** 2

    def changes(self, ranks: Ranks, trials: Any) -> dict[Any, float]:
        base = self.plan(ranks)
        changes = {}
        for (layer, component), target_ranks in trials.items():
            for rank in target_ranks:
                rows = ranks.layers()
                rows[layer][component] = rank
                changes[(layer, component), rank] = self.plan(ranks_of(rows)) - base
        return changes


def test_refinement_moves_ranks_and_keeps_forms() -> None:
    profile = gradient_profile(latents=BOTH)
    plan = plan_from_profile(profile, ["kv_bytes_per_token=0.6", "block_params=0.8"])
    start, program = plan.chosen, question_of(plan, profile)
    assert any(start.latents)
    measure = Interacting(list(profile.curves))
    ranks, record = refine(program, start, measure, evaluations=60)
    assert record.final_nats < record.start_nats
    assert {ranks_tried.latents for ranks_tried in measure.requests} == {start.latents}
    for budget, row in zip(program.budgets, program.rows, strict=True):
        assert program.costs.total(budget.metric, ranks) <= row.limit
    refined = refined_plan(plan, profile, ranks, record.document())
    assert read_plan(json.dumps(refined.document).encode()) == refined
    # Where there is nothing to choose from, the question is the same one.
    plain = question(gradient_profile(), parse_budgets(CACHE))
    assert plain.in_forms_of(Ranks.dense(SMALL)) is plain


@pytest.mark.parametrize("target", [name for name in TARGETS if name != PLAIN.name])
def test_an_engine_is_offered_what_it_computes_and_takes_nothing_else(target: str) -> None:
    profile = gradient_profile(latents=BOTH)
    program = question(profile, parse_budgets(["params=0.95"]), {"target": [target]})
    queries = target.startswith("vllm")
    assert program.latents == (("latent",) if queries else ())
    offered = {form for options in program.by_place().values() for _, form in options}
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
    whys = {c.layer: c.why for c in explain(plan, profile).components if c.component == "qk"}
    assert ["with queries of one latent" in whys[layer] for layer in range(2)] == [
        form == "latent" for form in forms
    ]
    assert budget.used <= budget.limit


def test_a_plan_file_with_joint_values_is_read_and_what_cannot_be_is_refused() -> None:
    plan = plan_from_profile(gradient_profile(latents=BOTH), CACHE)
    assert read_plan(json.dumps(plan.document).encode()) == plan
    for change, message in (
        ({"ov_form": "shared"}, r"ranks\[0\].ov_form: found 'shared'; Input should be 'joint'"),
        ({"ov": SMALL.head_dim}, "ov has rank 16 in the form 'joint'"),
        ({"bits": {"ov": 8}}, "joint and in bits"),
    ):
        first, *others = plan.chosen.layers()
        with pytest.raises(InvalidInput, match=message):
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
            losses = before.latents.get(form, before).loss_nats, after.latents.get(form, after).loss_nats
            assert losses[1] == pytest.approx([factor * loss for loss in losses[0]])


def test_geometry_is_that_of_old_files() -> None:
    """Nothing was added to what plans and profiles are named by."""
    assert Geometry.stored(SMALL.document) == SMALL
    assert "joint" not in json.dumps(SMALL.document)
