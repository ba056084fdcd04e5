"""Costs that follow no line: what groups of a kind can use together, against all of their choices; and how much work it is."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from allocator.plan.planning import plan_from_profile
from allocator.plan.program import staircases
from allocator.plan.program.bound import Relaxation
from allocator.plan.program.enumeration import MOST_STATES
from allocator.plan.program.staircases import Staircase, staircase_table
from tests.support.profiles import SMALL, measured_profile

FOUR_BITS = SMALL.replaced(
    layers=28,
    hidden=3584,
    heads=28,
    kv_heads=4,
    head_dim=128,
    intermediate=18944,
    total_params=7_600_000_000,
)
"""Of 28 heads and a rank, a group of weights may be 16 to 32: a staircase for OV, with 128 ranks in every layer."""


def _relaxation(prices_GO: np.ndarray, choice: list[int]) -> Relaxation:
    return Relaxation(np.zeros(2), 0.0, choice, prices_GO, 0.0)


@pytest.mark.parametrize("reach", [0.5, 1.5, 10.0])
def test_every_use_within_reach_has_its_least_price(reach: float) -> None:
    random = np.random.default_rng(1)
    rise_BO = np.array([[0, 3, 3, 7], [0, 2, 5, 5]])
    prices_GO = random.uniform(0, 1, (5, 4))
    choice = random.integers(0, 4, 5).tolist()
    prices_GO[np.arange(5), choice] = 0.0
    kind = Staircase([0, 1, 2, 3, 4], rise_BO)
    table, looked_at = staircase_table(kind, _relaxation(prices_GO, choice), reach, MOST_STATES, np.inf)
    assert table is not None
    least: dict[tuple[int, ...], float] = {}
    for picks in itertools.product(range(4), repeat=5):
        price = float(prices_GO[np.arange(5), picks].sum())
        if price <= reach:
            used = tuple(int(x) for x in (rise_BO[:, picks] - rise_BO[:, choice]).sum(axis=1))
            least[used] = min(least.get(used, np.inf), price)
    found = {tuple(map(int, used)): price for used, price in zip(table.used_BS.T, table.reduced, strict=True)}
    assert found == pytest.approx(least)
    for spot, used in enumerate(table.used_BS.T):
        picks = list(choice)
        table.trace(spot, picks)
        assert (used == (rise_BO[:, picks] - rise_BO[:, choice]).sum(axis=1)).all()
        assert float(prices_GO[np.arange(5), picks].sum()) == pytest.approx(float(table.reduced[spot]))
    again, _ = staircase_table(kind, _relaxation(prices_GO, choice), reach, looked_at - 1, np.inf)
    assert again is None, "one combination less than it takes"
    late, _ = staircase_table(kind, _relaxation(prices_GO, choice), reach, looked_at, time.monotonic() - 1)
    assert late is None


def _two_groups(most_states: int = MOST_STATES) -> tuple[dict[int, float] | None, int]:
    """Uses within 1.0 of two groups whose options cost 0, 1, 5 at prices 0, 0.5, 1, and how many combinations it took."""
    kind, prices_GO = Staircase([0, 1], np.array([[0, 1, 5]])), np.array([[0.0, 0.5, 1.0]] * 2)
    table, looked_at = staircase_table(kind, _relaxation(prices_GO, [0, 0]), 1.0, most_states, np.inf)
    if table is None:
        return None, looked_at
    return dict(zip(table.used_BS[0].tolist(), table.reduced.tolist(), strict=True)), looked_at


def test_what_costs_the_reach_exactly_is_within_it() -> None:
    """One option alone (5) as well as two together (1 + 1); 3 options in the first group, then 3 for each of 3 uses."""
    uses, looked_at = _two_groups()
    assert uses == {0: 0.0, 1: 0.5, 2: 1.0, 5: 1.0}
    assert looked_at == 4 * (3 + 3 * 3)
    assert _two_groups(looked_at)[0] == uses
    assert _two_groups(looked_at - 1)[0] is None


@pytest.mark.parametrize(("limit", "most"), [("_AT_ONCE", 6), ("_WIDEST", 4)])
def test_a_table_that_is_too_large_is_given_up(
    limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second group's 9 combinations 6 are within reach; they make 4 uses."""
    monkeypatch.setattr(staircases, limit, most)
    assert _two_groups()[0] is not None
    monkeypatch.setattr(staircases, limit, most - 1)
    assert _two_groups()[0] is None


def test_uses_are_exact_where_floats_are_not() -> None:
    large = 2**53 + 1
    kind = Staircase([0, 1], np.array([[0, large]]))
    table, _ = staircase_table(kind, _relaxation(np.zeros((2, 2)), [0, 0]), 1.0, MOST_STATES, np.inf)
    assert table is not None
    assert sorted(int(use) for use in table.used_BS[0]) == [0, large, 2 * large]


def test_groups_of_a_kind_are_counted_by_what_they_have_together() -> None:
    """40 groups of 4 options have 10^24 choices, and at most as many uses as ways to give 40 things to 4."""
    kind = Staircase(list(range(40)), np.array([[0, 3, 4, 9], [0, 1, 7, 8]]))
    prices_GO = np.zeros((40, 4))
    table, looked_at = staircase_table(kind, _relaxation(prices_GO, [0] * 40), 1.0, 10**9, np.inf)
    assert table is not None
    assert len(table.reduced) <= 12_341
    assert looked_at <= 4 * 4 * sum((n + 1) * (n + 2) * (n + 3) // 6 for n in range(40))


def test_four_bit_weights_beside_a_second_budget_are_proven_without_a_solver() -> None:
    """HiGHS worked 24 s on this one. The work is counted: three fifths of what may be enumerated by default suffice."""
    budgets = ["memory=7268376091@context=2048,weights=int4", "kv_bytes_per_token=30367"]
    profile = measured_profile(FOUR_BITS)
    plan = plan_from_profile(profile, budgets, most_states=MOST_STATES * 3 // 5, time_limit_s=600.0)
    certificate = plan.certificate
    assert (certificate.status, certificate.proof) == ("optimal", "enumeration")
    assert certificate.gap < 1e-11
    assert certificate.bound == certificate.independent_bound > certificate.dual_bound
    assert all(row.used <= row.limit for row in plan.budgets)
