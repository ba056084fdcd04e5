"""What a program is made of: losses, costs, forms and names of its groups, against the profile's curves and the cost model."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.feasibility import feasibility_program
from allocator.plan.program.problem import question
from allocator.plan.program.solve import check_feasible, solve
from allocator.plan.targets.registry import TARGETS
from tests.support.latency import table
from tests.support.profiles import SMALL, gradient_profile, quantized_profile, small_profile
from tests.support.tiny import AT, TINY, around, curves_of, falling, tiny_profile

BUDGETS = ["params=0.9", "kv_bytes_per_token=0.8", "memory=0.9@batch=2,context=64"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    curves_of(falling(2.0**-10)), st.none() | around(), st.lists(st.integers(0, 3), min_size=6, max_size=6)
)
def test_a_choice_loses_and_costs_what_its_ranks_do(
    losses: list[tuple[float, ...]], start: dict[str, Any] | None, choice: list[int]
) -> None:
    profile = tiny_profile(losses, around=start)
    program = question(profile, parse_budgets(BUDGETS))
    ranks = program.ranks(choice)
    assert ranks == Ranks(*(tuple(1 + choice[spot + 3 * layer] for layer in range(2)) for spot in range(3)))
    assert program.choice(ranks) == choice
    alone = math.fsum(losses[spot][pick] for spot, pick in enumerate(choice))
    there = 0.0
    if start is not None:
        flat = [row[component] - 1 for row in start["ranks"] for component in COMPONENTS]
        there = start["loss_nats"] - math.fsum(losses[spot][pick] for spot, pick in enumerate(flat))
        assert program.predicted(program.ranks(flat)) == pytest.approx(start["loss_nats"], abs=1e-12)
    assert program.predicted(ranks) == pytest.approx(max(there + alone, 0.0), abs=1e-12)
    costs = CostModel(TINY)
    for b, (budget, row) in enumerate(zip(program.budgets, program.rows, strict=True)):
        used = row.constant + sum(
            group.costs[b][pick] for group, pick in zip(program.groups, choice, strict=True)
        )
        assert used == costs.total(budget.metric, ranks)
        assert (row.label, row.unit) == (budget.metric.label, budget.metric.unit)
        assert row.limit == budget.limit(costs)


def test_groups_are_named_by_what_is_chosen_together() -> None:
    def names(**constraints: list[str]) -> list[str]:
        return [group.name for group in question(small_profile(), parse_budgets(BUDGETS), constraints).groups]

    assert names() == [f"layer {layer} {c}" for layer in range(2) for c in COMPONENTS]
    assert names(tie=["ov"]) == ["layer 0 qk", "layers 0 to 1 ov", "layer 0 mlp", "layer 1 qk", "layer 1 mlp"]
    assert names(target=["vllm"]) == ["layer 0 qk and ov", "layer 0 mlp", "layer 1 qk and ov", "layer 1 mlp"]


@pytest.mark.parametrize(
    ("target", "ranks"), [("transformers", "any ranks"), ("vllm", "any ranks that vllm holds")]
)
def test_what_no_ranks_reach_is_said_with_what_there_is_to_choose_from(target: str, ranks: str) -> None:
    budgets = parse_budgets(["kv_bytes_per_token=2"])
    profile, constraints = small_profile(), {"target": [target]}
    program = question(profile, budgets, constraints)
    before = feasibility_program(CostModel(profile.model.geometry), budgets, constraints)
    for groups, rows in ((program.groups, program.rows), before):
        with pytest.raises(BudgetInfeasible) as caught:
            check_feasible(groups, rows)
        minimum = caught.value.extra["achievable"][0]["minimum"]
        assert (
            f"kv_bytes_per_token: 2 bytes asked, {minimum} is the least that {ranks} reach"
            in caught.value.detail
        )
        plan = solve(groups, [type(rows[0])(rows[0].label, minimum, rows[0].constant, rows[0].unit)])
        assert plan.used == (minimum,)


@pytest.mark.parametrize(
    "target", sorted(n for n, target in TARGETS.items() if target.refusal(SMALL) is None)
)
@pytest.mark.parametrize("latents", [None, True, False])
@pytest.mark.parametrize("timed", [False, True])
def test_latents_are_of_a_target_and_not_where_time_is_counted(
    target: str, latents: bool | None, timed: bool
) -> None:
    profile = gradient_profile(latents=("latent", "joint"))
    budgets = parse_budgets([f"latency=0.9{AT}" if timed else "params=0.9"])
    constraints = {"target": [target]}
    program = question(profile, budgets, constraints, table() if timed else None, latents=latents)
    forms = () if timed or latents is False else TARGETS[target].latents
    assert set(program.latents) == set(forms)
    offered = {form for options in program.by_place().values() for _, form in options}
    assert offered == {None, *forms}


def test_bits_are_offered_as_asked_and_the_first_option_takes_least() -> None:
    profile, budgets = (
        quantized_profile(),
        parse_budgets([*BUDGETS, "flops_per_token=0.9@context=64,phase=decode"]),
    )
    for bits, offered in ((None, {None, 8, 4}), ([8], {None, 8}), ([4, 8], {None, 8, 4}), ([], {None})):
        program = question(profile, budgets, bits=bits)
        assert {form for options in program.by_place().values() for _, form in options} == offered
        assert program.bits == tuple(sorted(offered - {None}, reverse=True))
        costs = CostModel(SMALL)
        memory = budgets[2].metric
        for (layer, component), options in program.by_place().items():
            price = {option: costs.cost_of(memory, component, layer, *option) for option in options}
            assert options == sorted(options, key=lambda option: (option[0], price[option]))
        for group in program.groups:
            assert all(min(column) == column[0] for column in group.costs)


def test_bits_that_are_not_there_are_refused() -> None:
    budgets = parse_budgets(BUDGETS)
    quantized, plain = quantized_profile().replaced(bits=(8,)), small_profile("k" * 20)
    for profile, constraints, bits, found, says in (
        (
            quantized,
            {},
            [8, 4],
            "4",
            f"bits: profile {quantized.key[:12]} has measured 8 bits, not 4; use bits that",
        ),
        (plain, {}, [4], "4", "bits: profile kkkkkkkkkkkk has measured none, not 4; use bits that"),
        (quantized, {"target": ["vllm"]}, [8], "8", "bits: allowed are none with target vllm"),
    ):
        with pytest.raises(InvalidInput) as caught:
            question(profile, budgets, constraints, bits=bits)
        (refused,) = caught.value.fields
        assert (refused.field, refused.found) == ("bits", found)
        assert caught.value.detail.startswith(says)
    # What cannot be loaded is not offered, and nobody asked for it.
    assert question(quantized, budgets, {"target": ["vllm"]}).bits == ()
