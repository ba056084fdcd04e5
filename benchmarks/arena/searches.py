"""Rules that look at what ranks are worth, by thresholds, in sorted lists or one step at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from allocator.plan.ask.constraints import Place
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.solve import Group, Row, solve
from benchmarks.arena.problem import OutOfReach, Picks, Problem

STRS_RATIOS = tuple(step / 10 for step in range(1, 10))


def a3_mix(problem: Problem) -> Ranks:
    """A3-mix (arXiv 2505.12942v4, appendix D): "a simple search over rank allocations for each decoder layer".

    The paper says no more. Here one ratio for each layer, the best such allocation there is by the curves: the integer program
    with all three components of a layer in one group.
    """
    spots = sorted({rank / ranks[-1] for ranks in problem.ranks_of.values() for rank in ranks})
    groups, triples = [], []
    for layer in range(problem.costs.geometry.layers):
        places = [place for place in problem.places if place[0] == layer]
        distinct = {
            tuple(problem.floored(dict.fromkeys(problem.places, ratio))[place] for place in places): None
            for ratio in spots
        }
        options = list(distinct)
        triples.append((places, options))
        groups.append(
            Group(
                f"layer {layer}",
                tuple(
                    sum(float(problem.losses[place][n]) for place, n in zip(places, option, strict=True))
                    for option in options
                ),
                tuple(
                    tuple(
                        sum(int(problem.prices[place][b, n]) for place, n in zip(places, option, strict=True))
                        for option in options
                    )
                    for b in range(len(problem.budgets))
                ),
            )
        )
    choice = solve(groups, rows(problem)).choice
    picks: Picks = {}
    for (places, options), pick in zip(triples, choice, strict=True):
        picks |= dict(zip(places, options[pick], strict=True))
    return problem.ranks(picks)


def rows(problem: Problem) -> list[Row]:
    """The budgets as the program takes them, constants left out."""
    return [
        Row(budget.metric.label, int(limit), 0, budget.metric.unit)
        for budget, limit in zip(problem.budgets, problem.limits, strict=True)
    ]


def strs(problem: Problem) -> Ranks:
    """ASVD's STRS (arXiv 2312.05821, section 3.4; ``binary_search.py``): a list of (component, ratio) by the loss of that cut.

    Each component takes its smallest ratio on the harmless side of one cut through the list, the first that meets the
    budgets. The loss is our curve's at that ratio, the paper's the perplexity of the same single cut. Ratios from 0.1 (as for
    its KV cache; 0.4 otherwise), in tenths.
    """
    entries = [
        (float(problem.losses[place][pick]), place, pick)
        for place in problem.places
        for pick in sorted(
            {problem.floored(dict.fromkeys(problem.places, r))[place] for r in STRS_RATIOS}, reverse=True
        )
        if pick < len(problem.ranks_of[place]) - 1
    ]
    picks = {place: len(ranks) - 1 for place, ranks in problem.ranks_of.items()}
    for _, place, pick in sorted(entries, key=lambda entry: entry[0]):
        if problem.fits(picks):
            break
        picks[place] = min(picks[place], pick)
    if not problem.fits(picks):
        raise OutOfReach(f"the least ratio in the list is {STRS_RATIOS[0]}")
    return problem.ranks(picks)


def threshold(problem: Problem) -> Ranks:
    """ModelOpt's ``kl_div`` and AIMET's compression search: one bound τ on the loss of each component alone.

    Every component takes its smallest rank whose loss is at most τ; the smallest τ that meets the budgets, where ModelOpt
    halves an interval a hundred times. The least largest loss, not the least sum.
    """
    taus = sorted({float(loss) for losses in problem.losses.values() for loss in losses})
    low, high = 0, len(taus) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if problem.fits(_picks_within(problem, taus[middle])) else (middle + 1, high)
        )
    picks = _picks_within(problem, taus[low])
    if not problem.fits(picks):
        raise OutOfReach("losses fall to the same value everywhere")
    return problem.ranks(picks)


def _picks_within(problem: Problem, tau: float) -> Picks:
    return {place: int(np.flatnonzero(losses <= tau)[0]) for place, losses in problem.losses.items()}


def greedy(problem: Problem) -> Ranks:
    """Greedy per unit: from the dense model, always the step down that loses least per part of the budgets that it frees.

    One candidate step at a time; what is freed counts where a budget is still exceeded, as a part of its limit. When all are
    met, what the last step freed too much goes to the steps up that gain most per part, as long as one fits.
    """
    picks = {place: len(ranks) - 1 for place, ranks in problem.ranks_of.items()}
    while not problem.fits(picks):
        exceeded = problem.used(picks) > problem.limits
        rates: dict[Place, float] = {}
        for place, pick in picks.items():
            if pick > 0:
                freed = _part(problem, place, pick)[exceeded].sum()
                if freed > 0:
                    losses = problem.losses[place]
                    rates[place] = float(losses[pick - 1] - losses[pick]) / float(freed)
        picks[min(rates, key=lambda place: rates[place])] -= 1
    return problem.ranks(refilled(problem, picks))


def _part(problem: Problem, place: Place, pick: int) -> np.ndarray:
    """The part of each budget that the step to ``pick`` from below takes."""
    prices = problem.prices[place]
    return (prices[:, pick] - prices[:, pick - 1]) / problem.limits


def refilled(problem: Problem, picks: Picks) -> Picks:
    """Steps up, the one that gains most per part of the budgets first, while one fits."""
    picks = dict(picks)
    while True:
        used, rates = problem.used(picks), {}
        for place, pick in picks.items():
            prices, losses = problem.prices[place], problem.losses[place]
            if pick + 1 < len(losses) and (
                (used + prices[:, pick + 1] - prices[:, pick] <= problem.limits).all()
            ):
                rates[place] = float(losses[pick] - losses[pick + 1]) / float(
                    _part(problem, place, pick + 1).sum()
                )
        if not rates:
            return picks
        picks[max(rates, key=lambda place: rates[place])] += 1


def knapsack(
    losses: Sequence[np.ndarray], prices: Sequence[np.ndarray], limits: np.ndarray, *, cells: int
) -> list[int]:
    """The choice of one option per group with the least sum of losses, by dynamic programming over cells of budgets.

    Prices (budgets, options) are rounded up to cells, so that no limit is exceeded. A cell is the greatest common divisor of a
    budget's prices where that takes no more cells than allowed, and the limit divided by the cells otherwise.

    Raises:
        OutOfReach: nothing fits.
    """
    shape, rounded = _grid(prices, limits, cells)
    best = np.full(shape, np.inf)
    best[(0,) * len(shape)] = 0.0
    picked: list[np.ndarray] = []
    for loss, price in zip(losses, rounded, strict=True):
        following, pick = np.full(shape, np.inf), np.full(shape, -1, dtype=np.int16)
        for option, value in enumerate(loss):
            step = tuple(int(cell) for cell in price[:, option])
            if any(cell >= size for cell, size in zip(step, shape, strict=True)):
                continue
            ahead = tuple(slice(cell, None) for cell in step)
            behind = tuple(slice(0, size - cell) for cell, size in zip(step, shape, strict=True))
            candidate = best[behind] + value
            better = candidate < following[ahead]
            following[ahead][better] = candidate[better]
            pick[ahead][better] = option
        best, picked = following, [*picked, pick]
    spot = tuple(int(at) for at in np.unravel_index(int(np.argmin(best)), shape))
    if not np.isfinite(best[spot]):
        raise OutOfReach("no choice fits the grid")
    choice = []
    for price, pick in zip(reversed(rounded), reversed(picked), strict=True):
        option = int(pick[spot])
        choice.append(option)
        spot = tuple(at - int(cell) for at, cell in zip(spot, price[:, option], strict=True))
    return choice[::-1]


def _grid(
    prices: Sequence[np.ndarray], limits: np.ndarray, cells: int
) -> tuple[tuple[int, ...], list[np.ndarray]]:
    all_prices = np.concatenate(list(prices), axis=1)
    units = [max(1, int(np.gcd.reduce(row))) for row in all_prices]
    exact = [int(limit) // unit + 1 for limit, unit in zip(limits, units, strict=True)]
    shape: list[int] = [0] * len(exact)
    remaining = cells
    for number, budget in enumerate(sorted(range(len(exact)), key=lambda b: exact[b])):
        shape[budget] = min(exact[budget], max(2, int(remaining ** (1 / (len(exact) - number)))))
        remaining = max(2, remaining // shape[budget])
    rounded = []
    for price in prices:
        cells_of = [
            -(-row // unit) if size == full else -(-row * (size - 1) // int(limit))
            for row, unit, size, full, limit in zip(price, units, shape, exact, limits, strict=True)
        ]
        rounded.append(np.array(cells_of))
    return tuple(shape), rounded


Losses = Mapping[Place, np.ndarray]


def by_grid(problem: Problem, losses: Losses, *, cells: int) -> Ranks:
    """The ranks that ``knapsack`` finds for these losses."""
    choice = knapsack(
        [losses[place] for place in problem.places],
        [problem.prices[place] for place in problem.places],
        problem.limits,
        cells=cells,
    )
    return problem.ranks(dict(zip(problem.places, choice, strict=True)))
