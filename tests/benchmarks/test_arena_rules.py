"""The arena's rules: budgets are met whatever they are given, exact ones find the optimum, formulas are the papers' own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.ask.constraints import Place
from allocator.plan.documents.curve import Curve
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from benchmarks.arena import evolution, exact, searches, shares
from benchmarks.arena.problem import OutOfReach, Problem, Signals
from benchmarks.arena.rules import RULES, Rule
from benchmarks.arena.run import count
from benchmarks.peers import asvd
from benchmarks.peers import modegpt as literal_modegpt
from tests.support.profiles import small_profile

BUDGETS = (
    ["block_params=0.9"],
    ["block_params=0.8"],
    ["block_params=0.6"],
    ["block_params=0.3"],
    ["block_params=0.8", "kv_bytes_per_token=0.75"],
    ["block_params=0.7", "kv_bytes_per_token=0.3"],
)
THIN_BUDGETS = (
    ["block_params=0.8"],
    ["block_params=0.6"],
    ["block_params=0.45"],
    ["block_params=0.8", "kv_bytes_per_token=0.75"],
    ["block_params=0.6", "kv_bytes_per_token=0.5"],
)
SMALL = small_profile().model.geometry
THIN = SMALL.replaced(heads=2, kv_heads=1, head_dim=4, intermediate=4, hidden=8)
"""2 x 4 x 4 ranks a layer: 1,024 plans in all."""


def problem(
    budgets: Sequence[str], *, geometry: Geometry = SMALL, seed: int | None = None, **given: Any
) -> Problem:
    """Curves of the profile made by hand, or random falling ones."""
    if seed is None:
        curves = list(small_profile().curves)
    else:
        rng, curves = np.random.default_rng(seed), []
        for layer in range(geometry.layers):
            for c in ("qk", "ov", "mlp"):
                ranks = tuple(geometry.candidate_ranks(c))
                steps = rng.gamma(0.3, size=len(ranks) - 1) * 10 ** rng.uniform(-4, 0)
                losses = (*np.cumsum(steps)[::-1].tolist(), 0.0)
                at = {"layer": layer, "component": c, "full_rank": ranks[-1], "ranks": ranks}
                curves.append(Curve(**at, analytic=losses, loss_nats=losses, measured=(), repairs=()))
    known = signals(geometry, 0 if seed is None else seed)
    return Problem(CostModel(geometry), parse_budgets(budgets), curves, signals=known, **given)


def signals(geometry: Geometry, seed: int) -> Signals:
    rng = np.random.default_rng(seed)
    places: list[Place] = [(n, c) for n in range(geometry.layers) for c in ("qk", "ov", "mlp")]
    tails = {}
    for place in places:
        energies = np.sort(rng.gamma(0.5, size=geometry.full_rank(place[1])))[::-1]
        tails[place] = (*np.cumsum(energies[::-1])[::-1].tolist(), 0.0)
    return Signals(
        tokens=1000,
        fisher={place: float(rng.gamma(1.0)) + 1e-3 for place in places},
        influence=tuple(rng.uniform(0, 0.6, geometry.layers).tolist()),
        outliers={m: tuple(rng.uniform(0, 0.1, geometry.layers).tolist()) for m in (5.0, 7.0)},
        tails=tails,
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("budgets", BUDGETS, ids=" ".join)
def test_every_rule_meets_every_budget(rule: Rule, budgets: list[str]) -> None:
    given = problem(budgets, windows=600)
    try:
        ranks = rule.choose(given)
    except OutOfReach:
        assert rule.name == "STRS (ASVD)"  # its list ends at a tenth of the rank
        return
    used = count(given.costs, given, ranks)
    assert set(used) == {budget.metric.label for budget in given.budgets}
    assert all(ranks.of(c)[n] in given.ranks_of[n, c] for n, c in given.places)
    limits = [budget.limit(given.costs) for budget in given.budgets]
    # What is left of the tightest budget is less than what a whole layer's smallest steps take.
    slack = min(1 - used[b.metric.label] / limit for b, limit in zip(given.budgets, limits, strict=True))
    assert slack < 0.1


@given(
    seed=st.integers(0, 10**6),
    keep=st.floats(0.4, 0.99),
    kv=st.none() | st.floats(0.4, 0.99),
    rule=st.sampled_from(RULES),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_budgets_are_met_on_random_curves(seed: int, keep: float, kv: float | None, rule: Rule) -> None:
    budgets = [f"block_params={keep:.4f}", *([] if kv is None else [f"kv_bytes_per_token={kv:.4f}"])]
    given = problem(budgets, geometry=THIN, seed=seed, windows=300)
    try:
        ranks = rule.choose(given)
    except OutOfReach:
        return
    count(given.costs, given, ranks)
    assert given.predicted(ranks) >= given.predicted(exact.plan(given)) * (1 - 1e-4) - 1e-9


def everything(given: Problem) -> list[Ranks]:
    """All plans within the budgets."""
    options = [range(len(given.ranks_of[place])) for place in given.places]
    picks = (dict(zip(given.places, each, strict=True)) for each in itertools.product(*options))
    return [given.ranks(each) for each in picks if given.fits(each)]


@pytest.mark.parametrize("budgets", THIN_BUDGETS, ids=" ".join)
@pytest.mark.parametrize("seed", range(4))
def test_exact_rules_find_what_trying_everything_finds(budgets: list[str], seed: int) -> None:
    given = problem(budgets, geometry=THIN, seed=seed)
    least = min(map(given.predicted, everything(given)))
    for rule in (exact.plan, exact.grid):
        assert given.predicted(rule(given)) == pytest.approx(least, rel=1e-4, abs=1e-9)
    assert least * (1 - 1e-9) <= given.predicted(exact.lagrangian(given)) <= 1.5 * least + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_has_the_least_largest_loss(seed: int) -> None:
    given = problem(["block_params=0.6"], geometry=THIN, seed=seed)

    def largest(ranks: Ranks) -> float:
        return max(given.at[n, c].loss_at(ranks.of(c)[n]) for n, c in given.places)

    assert largest(searches.threshold(given)) == min(map(largest, everything(given)))


@pytest.mark.parametrize("seed", range(6))
def test_layer_search_is_the_best_with_one_ratio_a_layer(seed: int) -> None:
    given = problem(["block_params=0.6"], geometry=THIN, seed=seed)
    ratios = sorted({r / ranks[-1] for ranks in given.ranks_of.values() for r in ranks})
    tried = []
    for pair in itertools.product(ratios, repeat=2):
        picks = given.floored({place: pair[place[0]] for place in given.places})
        if given.fits(picks):
            tried.append(given.predicted(given.ranks(picks)))
    assert given.predicted(searches.a3_mix(given)) == pytest.approx(min(tried), rel=1e-4)


def test_strs_is_the_list_and_the_cut_of_the_paper() -> None:
    given = problem(["block_params=0.6"])
    entries = []
    for place in given.places:
        for ratio in searches.STRS_RATIOS:
            rank = given.ranks_of[place][given.floored(dict.fromkeys(given.places, ratio))[place]]
            entries.append((given.at[place].loss_at(rank), place, ratio))
    found = asvd.threshold(entries, given.places, lambda ratios: given.fits(given.floored(ratios)))
    assert given.ranks(given.floored(found)) == searches.strs(given)


def test_fisher_shares_are_in_proportion_and_the_remainder_goes_round() -> None:
    given = problem(["block_params=0.3"])
    fisher = given.required_signals.fisher
    ranks = shares.palu(given)
    most = max(fisher.values())
    kept = {(n, c): ranks.of(c)[n] / given.ranks_of[n, c][-1] for n, c in given.places}
    scale = max(kept.values()) / most
    for place, share in kept.items():
        step = 2 * given.ranks_of[place][0] / given.ranks_of[place][-1]
        assert abs(share - min(1.0, scale * fisher[place])) <= 2 * step + 0.1
    assert given.filled(given.picks(ranks), given.places) == given.picks(ranks)


def test_inverse_log_shares_are_those_of_svd_llm_v2() -> None:
    norms = [3.0, 10.0, 500.0]
    total = sum(1 / math.log(norm) for norm in norms)
    expected = [3 * 0.2 / math.log(norm) / total for norm in norms]  # N R s_w / sum s at R = 0.2
    assert [0.2 * share for share in shares.inverse_log_shares(norms)] == pytest.approx(expected)
    assert shares.inverse_log_shares([0.5, 10.0]) == [1.0, 1.0]


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    sigma = np.array([3.0, 2.0, 1.0, 0.0])
    p = sigma**2 / (sigma**2).sum()
    tail = [float((sigma[r:] ** 2).sum()) for r in range(5)]
    expected = math.exp(-sum(each * math.log(each) for each in p if each > 0))
    assert shares.effective_rank(tail) == pytest.approx(expected)
    assert shares.effective_rank([8.0, 6.0, 4.0, 2.0, 0.0]) == pytest.approx(4.0)
    assert shares.effective_rank([0.0, 0.0]) == 1.0


def test_effective_rank_allocation_is_the_optimum_of_its_lagrangian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "BETAS", (0.0,))
    given = problem(["block_params=0.3"])
    weight = {place: given.prices[place][0, 0] / given.ranks_of[place][0] for place in given.places}
    entropy = {place: shares.effective_rank(given.required_signals.tails[place]) for place in given.places}
    ranks = shares.d_rank(given)
    total = sum(math.sqrt(entropy[place] * weight[place]) for place in given.places)
    for n, c in given.places:
        literal = math.sqrt(entropy[n, c] / weight[n, c]) * float(given.limits[0]) / total
        assert literal < given.ranks_of[n, c][-1], "no cap in this example"
        assert abs(ranks.of(c)[n] - literal) <= SMALL.step(c) + 1e-9 + 0.05 * literal


def test_sparsities_are_modegpts() -> None:
    influence = [0.1, 0.5, 0.3]
    for temperature in (0.1, 1.0, math.inf):
        expected = literal_modegpt.sparsities(torch.tensor(influence).double(), 0.2, temperature)
        mine = np.minimum(shares.sparsities(influence, 0.2, temperature), 0.95)
        assert mine == pytest.approx(expected.tolist())


def test_outlier_offsets_are_owls() -> None:
    ratio = np.array([1.0, 4.0, 2.5])
    literal = (ratio - ratio.min()) * (1 / (ratio.max() - ratio.min()) * 0.08 * 2)
    literal = literal - np.mean(literal) + (1 - 0.2)
    assert 0.8 + shares.outlier_offsets(ratio.tolist(), 0.08) == pytest.approx(literal)
    assert shares.outlier_offsets([2.0, 2.0], 0.08) == pytest.approx([0.0, 0.0])


def test_evolution_spends_what_it_may_and_never_loses_to_its_parent() -> None:
    given = problem(["block_params=0.6"], seed=3, windows=2000)
    ranks = evolution.evopress(given)
    assert 1000 < given.spent <= 2000 + evolution.FINAL_WINDOWS
    assert given.predicted(ranks) < given.predicted(shares.uniform(given))
    assert evolution.evopress(given) == ranks


def test_a_grid_that_rounds_never_exceeds() -> None:
    rng = np.random.default_rng(5)
    losses = [rng.uniform(size=6) for _ in range(5)]
    prices = [np.sort(rng.integers(1, 10**6, size=(2, 6)), axis=1) for _ in range(5)]
    limits = np.array([2 * 10**6, 18 * 10**5])
    found = searches.knapsack(losses, prices, limits, cells=10_000)
    used = sum(price[:, pick] for price, pick in zip(prices, found, strict=True))
    assert (used <= limits).all()
    with pytest.raises(OutOfReach):
        searches.knapsack(losses, prices, np.array([10, 10]), cells=100)
