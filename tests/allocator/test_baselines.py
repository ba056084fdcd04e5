"""Uniform allocations against all ratios tried one by one, in geometries, targets and constraints of many kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.plan import baselines
from allocator.plan.ask.budgets import Budget, parse_budgets
from allocator.plan.ask.constraints import Place, parse_constraints
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.precision import Form
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.registry import TARGETS
from tests.support.profiles import SMALL

FEW = SMALL.replaced(head_dim=8, intermediate=12, total_params=100_000)
"""Sizes at which all ratios of both kinds can be tried: 8 of heads, 12 of neurons."""
ODD = FEW.replaced(head_dim=7, qk_step=1, intermediate=131, layers=3, total_params=300_000)
"""Neurons in twos, of which the full rank is no multiple; heads one by one."""
WINDOWS = FEW.replaced(windows=(4, 0))
CONSTRAINTS: list[dict[str, list[str]]] = [
    {},
    {"pin": ["0.qk=dense"], "min_rank": ["ov=3"]},
    {"align": ["4"], "pin": ["1.mlp=4"]},
    {"pin": ["0.mlp=dense", "1.ov=2"]},
]
BUDGETS = ["params", "block_params", "kv_bytes_per_token", "flops_per_token", "memory@context=40,batch=3"]
Allowed = Mapping[Place, Sequence[int]]


def largest(geometry: Geometry, allowed: Allowed, shares: Mapping[Component, Fraction]) -> Ranks:
    """Of every component the largest rank within its share of the full one, or the smallest that it may take."""

    def one(layer: int, component: Component) -> int:
        ranks, most = allowed[layer, component], shares[component] * geometry.full_rank(component)
        return max((rank for rank in ranks if rank <= most), default=min(ranks))

    return Ranks(*(tuple(one(layer, c) for layer in range(geometry.layers)) for c in COMPONENTS))


def all_shares(geometry: Geometry) -> list[Fraction]:
    """Every share at which the rank of something changes, the largest first."""
    full = {geometry.full_rank(c) for c in COMPONENTS}
    return sorted({Fraction(n, most) for most in full for n in range(1, most + 1)}, reverse=True)


def fits(costs: CostModel, budgets: Sequence[Budget], ranks: Ranks) -> bool:
    return all(costs.total(budget.metric, ranks) <= budget.limit(costs) for budget in budgets)


def made_up_loss(ranks: Ranks) -> float:
    """Falls with every rank, unlike in all of them, so that no two choices lose the same."""
    every = (*ranks.qk, *ranks.ov, *ranks.mlp)
    forms = (ranks.at(layer, c)[1] for c in COMPONENTS for layer in range(len(ranks.qk)))
    rounded = sum(0.003 * (n + 3) for n, form in enumerate(forms) if form is not None)
    return rounded + sum((1 + 0.137 * n) / rank for n, rank in enumerate(every))


asked = st.lists(
    st.tuples(st.sampled_from(BUDGETS), st.integers(30, 100)),
    min_size=1,
    max_size=2,
    unique_by=lambda b: b[0],
)


def written(budgets: Sequence[tuple[str, int]]) -> list[Budget]:
    texts = ((*name.partition("@"), percent) for name, percent in budgets)
    return parse_budgets([f"{name}={percent}%{at}{options}" for name, at, options, percent in texts])


@given(
    st.sampled_from([FEW, ODD, WINDOWS]),
    st.sampled_from(["transformers", "vllm", "llama.cpp-kv"]),
    st.sampled_from(CONSTRAINTS),
    asked,
)
@settings(max_examples=80, deadline=None)
def test_uniform_is_the_largest_of_all_ratios_that_fit(
    geometry: Geometry, target: str, constraints: dict[str, list[str]], texts: list[tuple[str, int]]
) -> None:
    costs, budgets = CostModel(geometry, target=TARGETS[target]), written(texts)
    allowed = parse_constraints(constraints, geometry).allowed
    tried = (largest(geometry, allowed, dict.fromkeys(COMPONENTS, share)) for share in all_shares(geometry))
    expected = next((ranks for ranks in tried if fits(costs, budgets, ranks)), None)
    assert baselines.uniform(costs, budgets, allowed) == expected
    if not constraints:
        assert baselines.uniform(costs, budgets) == expected


@given(
    st.sampled_from([FEW, WINDOWS]),
    st.sampled_from(["transformers", "vllm"]),
    st.sampled_from(CONSTRAINTS),
    asked,
)
@settings(max_examples=40, deadline=None)
def test_uniform_kind_is_the_best_of_all_pairs_of_ratios(
    geometry: Geometry, target: str, constraints: dict[str, list[str]], texts: list[tuple[str, int]]
) -> None:
    costs, budgets = CostModel(geometry, target=TARGETS[target]), written(texts)
    allowed = parse_constraints(constraints, geometry).allowed
    pairs = product(range(1, geometry.head_dim + 1), range(1, geometry.intermediate + 1))
    tried = (
        largest(
            geometry,
            allowed,
            {
                "qk": Fraction(attention, geometry.head_dim),
                "ov": Fraction(attention, geometry.head_dim),
                "mlp": Fraction(mlp, geometry.intermediate),
            },
        )
        for attention, mlp in pairs
    )
    expected = min((made_up_loss(ranks) for ranks in tried if fits(costs, budgets, ranks)), default=None)
    best = baselines.uniform_kind(costs, budgets, made_up_loss, allowed)
    assert (None if best is None else made_up_loss(best)) == expected
    assert best is None or fits(costs, budgets, best)
    if not constraints:
        assert baselines.uniform_kind(costs, budgets, made_up_loss) == best


def options_in(
    geometry: Geometry, narrow: Mapping[int, set[Component]]
) -> dict[Place, list[tuple[int, Form]]]:
    """Every rank in the own type; every other one in the bits that a component may have at all; latents, which are no ratio.

    Args:
        narrow: bits -> components that have none.
    """
    options: dict[Place, list[tuple[int, Form]]] = {}
    for layer, component in product(range(geometry.layers), COMPONENTS):
        ranks = geometry.candidate_ranks(component)
        mine: list[tuple[int, Form]] = [(rank, None) for rank in ranks]
        for bits, without in narrow.items():
            # Not in the order of ranks, as a program's options need not be.
            mine += [(rank, bits) for rank in reversed(ranks[1::2])] if component not in without else []
        options[layer, component] = mine + ([(2, "joint")] if component == "ov" else [])
    return options


@given(
    st.sampled_from([FEW, WINDOWS]),
    st.sets(st.sampled_from(COMPONENTS), max_size=2),
    st.sets(st.sampled_from(COMPONENTS), max_size=2),
    st.integers(15, 90),
    st.integers(30, 100),
)
@settings(max_examples=60, deadline=None)
def test_uniform_bits_is_the_best_of_the_largest_ratios_in_each_number_of_bits(
    geometry: Geometry, no_eight: set[Component], no_four: set[Component], memory: int, cache: int
) -> None:
    costs = CostModel(geometry)
    budgets = written([("memory@context=40", memory), ("kv_bytes_per_token", cache)])
    options = options_in(geometry, {8: no_eight, 4: no_four})
    losses = []
    for bits, without in ((None, set()), (8, no_eight), (4, no_four)):
        forms = {c: None if c in without else bits for c in COMPONENTS}
        allowed = {
            place: [rank for rank, form in mine if form == forms[place[1]]] for place, mine in options.items()
        }
        rows = [[forms[c] for c in COMPONENTS]] * geometry.layers
        tried = (
            largest(geometry, allowed, dict.fromkeys(COMPONENTS, share)).with_bits(rows)
            for share in all_shares(geometry)
        )
        losses += [made_up_loss(ranks) for ranks in tried if fits(costs, budgets, ranks)][:1]
    best = baselines.uniform_bits(costs, budgets, made_up_loss, options, (8, 4))
    assert (None if best is None else made_up_loss(best)) == min(losses, default=None)
    assert best is None or fits(costs, budgets, best)
    assert best is None or not best.latents


def test_the_smallest_ranks_are_found_where_nothing_else_fits() -> None:
    for geometry in (FEW, ODD):
        costs, least = CostModel(geometry), {c: geometry.candidate_ranks(c)[0] for c in COMPONENTS}
        smallest = Ranks(*((least[c],) * geometry.layers for c in COMPONENTS))
        limit = costs.summary(smallest)["params"]
        for amount, expected in ((limit, smallest), (limit - 1, None)):
            budgets = parse_budgets([f"params={amount}"])
            assert baselines.uniform(costs, budgets) == expected
            assert baselines.uniform_kind(costs, budgets, made_up_loss) == expected


def test_ranks_are_charged_beside_those_that_they_may_be_chosen_from() -> None:
    """Eight dimensions pack into four bits and seven do not, and take more: where seven are out, eight take what they take."""
    costs, allowed = CostModel(SMALL), {(n, c): [8, 16] for n in range(2) for c in COMPONENTS}
    allowed |= {(n, "mlp"): [64, 128] for n in range(2)}
    packed = Ranks((8, 8), (8, 8), (64, 64))
    (metric,) = (budget.metric for budget in parse_budgets(["memory=1@context=1,weights=int4packed"]))
    assert costs.cost_of(metric, "ov", 0, 7) > costs.cost_of(metric, "ov", 0, 8)
    budgets = parse_budgets([f"memory={costs.total(metric, packed)}@context=1,weights=int4packed"])
    assert baselines.uniform(costs, budgets, allowed) == packed
    assert baselines.uniform_kind(costs, budgets, made_up_loss, allowed) == packed


def test_of_pairs_that_lose_the_same_the_larger_attention_is_taken() -> None:
    costs, budgets = CostModel(FEW), written([("params", 100)])
    assert baselines.uniform_kind(costs, budgets, lambda _: 1.0) == Ranks.dense(FEW)
    options = options_in(FEW, {8: set()})
    assert baselines.uniform_bits(costs, budgets, lambda _: 1.0, options, (8,)) == Ranks.dense(FEW)


def test_the_full_rank_needs_to_be_no_multiple_of_the_step() -> None:
    assert [baselines.floored(ODD, "mlp", Fraction(n, 131)) for n in (131, 130, 129)] == [131, 130, 128]


@pytest.mark.parametrize(
    ("component", "ratio", "rank"),
    [
        ("qk", Fraction(1), 8),
        ("qk", Fraction(3, 2), 8),
        ("qk", Fraction(7, 8), 6),
        ("ov", Fraction(7, 8), 7),
        ("qk", Fraction(3, 8), 2),
        ("qk", Fraction(1, 8), 2),
        ("qk", Fraction(1, 100), 2),
        ("ov", Fraction(1, 100), 1),
        ("mlp", Fraction(1, 2), 6),
        ("mlp", Fraction(7, 12), 7),
    ],
)
def test_a_ratio_is_floored_to_whole_steps_and_never_to_none(
    component: Component, ratio: Fraction, rank: int
) -> None:
    """Of 8 dimensions, QK in twos and OV one by one, and of 12 neurons one by one."""
    assert baselines.floored(FEW, component, ratio) == rank
    assert baselines.floored(FEW.replaced(fixed=(component,)), component, ratio) == FEW.full_rank(component)
