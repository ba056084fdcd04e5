"""Constraints: met by every plan, no worse than all plans that meet them, and refused in one sentence where they cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.ask.constraints import parse_constraints
from allocator.plan.documents.plan import Baseline, Plan
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from tests.support.profiles import small_profile, thinned_profile
from tests.support.programs import all_ranks, within

BUDGETS = ["block_params=0.7", "kv_bytes_per_token=0.6"]
GEOMETRY = small_profile().model.geometry
"""Two layers, head_dim 16 (QK in twos), 128 neurons in twos."""


def ranks_of(plan: Plan | Baseline, component: Component) -> list[int]:
    return list(plan.chosen.of(component))


def test_ranks_are_multiples_or_full() -> None:
    plan = plan_from_profile(small_profile(), BUDGETS, constraints={"align": ["4", "mlp=32"]})
    for component in COMPONENTS:
        step, full = 32 if component == "mlp" else 4, GEOMETRY.full_rank(component)
        assert all(rank % step == 0 or rank == full for rank in ranks_of(plan, component))
    for baseline in plan.baseline.values():
        assert all(rank % 32 == 0 for rank in ranks_of(baseline, "mlp")), "baselines keep to them too"
    assert plan.constraints.align == ("4", "mlp=32")


def test_no_rank_below_the_least() -> None:
    plan = plan_from_profile(small_profile(), BUDGETS, constraints={"min_rank": ["ov=5", "mlp=0.3"]})
    assert min(ranks_of(plan, "ov")) >= 5
    assert min(ranks_of(plan, "mlp")) >= 0.3 * 128


def test_pins_are_exactly_met() -> None:
    pins = ["0.qk=dense", "1.ov=3", "*.mlp=0.5"]
    plan = plan_from_profile(small_profile(), ["params=0.95"], constraints={"pin": pins})
    assert ranks_of(plan, "qk")[0] == 16
    assert ranks_of(plan, "ov")[1] == 3
    assert ranks_of(plan, "mlp") == [64, 64]


def test_tied_layers_have_one_rank() -> None:
    free = plan_from_profile(small_profile(), BUDGETS)
    tied = plan_from_profile(small_profile(), BUDGETS, constraints={"tie": ["ov", "mlp:0-1"]})
    for component in ("ov", "mlp"):
        assert len(set(ranks_of(tied, component))) == 1
        assert len(set(ranks_of(free, component))) == 2, "the curves differ, so it is the tie that does it"
    assert tied.predicted.loss_nats >= free.predicted.loss_nats


def test_constraints_name_the_plan_however_they_are_ordered() -> None:
    one = plan_from_profile(small_profile(), ["params=1"], constraints={"align": ["qk=4", "ov=4"]})
    same = plan_from_profile(small_profile(), ["params=1"], constraints={"align": ["ov=4", "qk=4", "ov=4"]})
    free = plan_from_profile(small_profile(), ["params=1"])
    assert one.ranks == free.ranks, "nothing needs to be cut"
    assert one.digest == same.digest != free.digest
    assert plan_from_profile(small_profile(), ["params=1"], constraints={}).digest == free.digest


PROFILE = thinned_profile()
CURVES = list(PROFILE.curves)
RANKS = {(curve.layer, curve.component): curve.ranks for curve in CURVES}
EVERY = list(all_ranks(CURVES))


def met(ranks: Ranks, constraints: dict[str, list[str]]) -> bool:
    """The constraints' meaning in other words, for the texts that ``written`` makes."""
    at = {(layer, c): rank for c in COMPONENTS for layer, rank in enumerate(ranks.of(c))}
    for text in constraints.get("align", []):
        component, step = text.split("=")
        for (_, c), rank in at.items():
            if c == component and rank % int(step) and rank != GEOMETRY.full_rank(c):  # type: ignore[arg-type]
                return False
    for text in constraints.get("min_rank", []):
        component, least = text.split("=")
        if any(c == component and rank < int(least) for (_, c), rank in at.items()):
            return False
    for text in constraints.get("pin", []):
        place, rank = text.split("=")
        layer, component = place.split(".")
        if at[int(layer), component] != int(rank):
            return False
    return all(at[0, c] == at[1, c] for c in constraints.get("tie", []))


@st.composite
def written(draw: st.DrawFn) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for component in COMPONENTS:
        if draw(st.booleans()):
            found.setdefault("align", []).append(f"{component}={draw(st.sampled_from([1, 2, 4, 8, 32]))}")
        if draw(st.booleans()):
            found.setdefault("min_rank", []).append(f"{component}={draw(st.integers(1, 10))}")
        if draw(st.integers(0, 3)) == 0:
            layer = draw(st.integers(0, 1))
            found.setdefault("pin", []).append(
                f"{layer}.{component}={draw(st.sampled_from(RANKS[layer, component]))}"
            )
        if draw(st.integers(0, 2)) == 0:
            found.setdefault("tie", []).append(component)
    return found


@given(written(), st.sampled_from(["params=0.95", "block_params=0.8", "kv_bytes_per_token=0.5"]))
@settings(max_examples=60, deadline=None)
def test_plans_are_the_best_of_all_that_meet_everything(
    constraints: dict[str, list[str]], budget: str
) -> None:
    costs, budgets = CostModel(GEOMETRY), parse_budgets([budget])
    fits = within(costs, budgets)
    best = min((loss for ranks, loss in EVERY if met(ranks, constraints) and fits(ranks)), default=None)
    try:
        from allocator.plan.program.options import options_of, program_of
        from allocator.plan.program.solve import solve

        limits = parse_constraints(constraints, GEOMETRY, RANKS)
        options = options_of(CURVES, costs, limits, ())
        found = solve(*program_of(CURVES, costs, budgets, limits, options)).loss_nats
    except (BudgetInfeasible, InvalidInput):
        assert best is None
    else:
        assert best is not None
        assert found == pytest.approx(best, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("constraints", "field", "said"),
    [
        ({"align": ["0"]}, "align", "whole number from 1"),
        ({"align": ["qkv=8"]}, "align", "qk, ov, mlp"),
        ({"align": ["mlp=-8"]}, "align", "whole number"),
        ({"min_rank": ["ov=17"]}, "min_rank", "a rank from 1 to 16"),
        ({"min_rank": ["ov=1.5"]}, "min_rank", "share from 0.0 to 1.0"),
        ({"min_rank": ["ov=1/2"]}, "min_rank", "a rank or a share"),
        ({"min_rank": ["ov=many"]}, "min_rank", "a rank or a share"),
        ({"pin": ["0.ov"]}, "pin", "LAYERS.COMPONENT=RANK"),
        ({"pin": ["2.ov=3"]}, "pin", "layers from 0 to 1"),
        ({"pin": ["1-0.ov=3"]}, "pin", "layers from 0 to 1"),
        ({"pin": ["0.qk=3"]}, "pin", "layer 0 qk may take 2, 4, "),
        ({"pin": ["0.qk=2"], "align": ["qk=4"]}, "pin", "4, 8, 12, 16"),
        ({"pin": ["0.qk=2", "0.qk=4"]}, "pin", "may take 2 under"),
        ({"tie": ["ov:0-9"]}, "tie", "layers from 0 to 1"),
        ({"tie": ["ov:1"]}, "tie", "COMPONENT:FIRST-LAST"),
        ({"tie": ["ov"], "pin": ["0.ov=2", "1.ov=3"]}, "tie", "a rank in common"),
        ({"round": ["8"]}, "constraints", "align, min_rank, pin, tie"),
        ({"tie": ["ov"] * 1001}, "constraints.tie", "at most 1000"),
    ],
)
def test_what_cannot_be_read_or_met_is_said(constraints: dict[str, list[str]], field: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_constraints(constraints, GEOMETRY)
    (error,) = caught.value.fields
    assert error.field == field
    assert said in error.allowed


@given(
    st.dictionaries(
        st.sampled_from(["align", "min_rank", "pin", "tie"]), st.lists(st.text(max_size=12), max_size=3)
    )
)
def test_any_text_is_read_or_refused(constraints: dict[str, list[str]]) -> None:
    try:
        found = parse_constraints(constraints, GEOMETRY)
    except InvalidInput:
        return
    assert all(found.allowed.values())


def test_a_budget_that_constraints_make_impossible_says_what_they_leave() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        plan_from_profile(
            small_profile(), ["kv_bytes_per_token=0.5"], constraints={"pin": ["*.ov=dense", "*.qk=8"]}
        )
    (least,) = caught.value.extra["achievable"]
    assert least["minimum"] == 2 * 2 * 2 * (16 + 8)
