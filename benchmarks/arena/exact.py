"""Solvers of our problem on our curves: the integer program, a grid, multipliers. And ROCKET on its own signal."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from allocator.plan.model.ranks import Ranks
from allocator.plan.program.solve import Group, solve
from benchmarks.arena.problem import OutOfReach, Picks, Problem
from benchmarks.arena.searches import by_grid, refilled, rows
from benchmarks.arena.shares import least

CELLS = 40_000
"""ROCKET's ``param_precision`` is 30 to 50 thousand."""
CELLS_OF_TWO = 25
"""Times as many cells where they have two dimensions."""
CAPS = (1.0, 1.25, 1.5, 2.0, float("inf"))
HALVINGS = 80
MIXES = 21
"""Directions of the multipliers that are tried with two budgets."""


def plan(problem: Problem) -> Ranks:
    """Ours: the integer program on the curves (``allocator.plan.program.solve``)."""
    places = problem.places
    groups = [
        Group(
            f"layer {layer} {c}",
            tuple(problem.losses[layer, c].tolist()),
            tuple(tuple(row) for row in problem.prices[layer, c].tolist()),
        )
        for layer, c in places
    ]
    return problem.ranks(dict(zip(places, solve(groups, rows(problem)).choice, strict=True)))


def grid(problem: Problem) -> Ranks:
    """ROCKET's solver (arXiv 2602.11008; ``mckp.py``) on our curves: dynamic programming over cells of the budgets.

    With two budgets the grid has two dimensions and twenty-five times as many cells in all.
    """
    return by_grid(problem, problem.losses, cells=_cells(problem))


def rocket(problem: Problem) -> Ranks:
    """ROCKET with its own signal: the relative error after whitening, and no component far above the others.

    e(r) = ||W' − W|| / ||W|| in the metric of the calibration data: the root of our analytic loss over that at rank 0. The sum
    is minimised over the grid without options above a cap: α times the mean error of the uniform ranks, α the smallest at which
    the budgets can be met ("eliminates pathological solutions"). How far above that the authors' steps of α end is not
    known: of several multiples, and no cap, the best by measured loss. Its sparse factors have no place here.
    """
    errors = {}
    for place in problem.places:
        tail = np.asarray(problem.required_signals.tails[place])
        scale = tail[0] if tail[0] > 0 else 1.0
        values = np.sqrt(np.maximum(tail[list(problem.ranks_of[place])], 0.0) / scale)
        errors[place] = np.maximum.accumulate(values[::-1])[::-1]  # more rank is never worse
    caps = sorted({float(value) for values in errors.values() for value in values})
    low, high = 0, len(caps) - 1
    while low < high:
        middle = (low + high) // 2
        smallest = {place: int(np.argmax(values <= caps[middle])) for place, values in errors.items()}
        low, high = (low, middle) if problem.fits(smallest) else (middle + 1, high)
    solutions = []
    for multiple in CAPS:
        cap = multiple * caps[low]
        capped = {place: np.where(values <= cap, values, np.inf) for place, values in errors.items()}
        with suppress(OutOfReach):  # rounding up to cells may cost what the tightest cap leaves
            solutions.append(by_grid(problem, capped, cells=_cells(problem)))
    return least(problem, solutions)


def _cells(problem: Problem) -> int:
    return CELLS if len(problem.budgets) == 1 else CELLS * CELLS_OF_TWO


def lagrangian(problem: Problem) -> Ranks:
    """AutoRound's AutoScheme (``auto_scheme/solver.py``) on our curves: bisection on λ, greedy repair, swaps of pairs.

    Each component takes argmin(loss + λ cost); λ by 80 halvings, from the side that fits. Then steps up by gain per cost,
    then one component down and another up as long as a pair gains. With two budgets λ has a direction; of 21 the best.
    """
    if len(problem.budgets) == 1:
        directions = [np.ones(1)]
    else:
        shares = np.linspace(0, 1, MIXES)
        directions = [np.array([share, 1 - share]) for share in shares]
    solutions: list[Picks] = []
    for direction in directions:
        picks = _priced(problem, direction)
        if picks is not None:
            solutions.append(_swapped(problem, refilled(problem, picks)))
    if not solutions:
        raise OutOfReach("no multiplier meets the budgets")
    return problem.ranks(min(solutions, key=lambda picks: _total(problem, picks)))


def _priced(problem: Problem, direction: np.ndarray) -> Picks | None:
    """The choice at the smallest multiplier of this direction that fits."""
    parts = {
        place: direction @ (prices / problem.limits[:, None]) for place, prices in problem.prices.items()
    }

    def at(log_multiplier: float) -> Picks:
        return {
            place: int(np.argmin(problem.losses[place] + np.exp(log_multiplier) * part))
            for place, part in parts.items()
        }

    low, high = -60.0, 60.0
    if not problem.fits(at(high)):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if problem.fits(at(middle)) else (middle, high)
    return at(high)


def _swapped(problem: Problem, picks: Picks) -> Picks:
    """The best swap of one option down and one up, again and again until none gains."""
    while True:
        used, best = problem.used(picks), None
        for down, pick in picks.items():
            for lower in range(pick):
                lost = problem.losses[down][lower] - problem.losses[down][pick]
                freed = problem.prices[down][:, pick] - problem.prices[down][:, lower]
                for up, other in picks.items():
                    if up == down:
                        continue
                    prices = problem.prices[up]
                    extra = prices[:, other + 1 :] - prices[:, other : other + 1]
                    room = problem.limits - used + freed
                    fit = int((extra <= room[:, None]).all(axis=0).sum())  # prices rise
                    if not fit:
                        continue
                    gain = problem.losses[up][other] - problem.losses[up][other + fit] - lost
                    if gain > 1e-12 and (best is None or gain > best[0]):
                        best = (gain, down, lower, up, other + fit)
        if best is None:
            return picks
        _, down, lower, up, higher = best
        picks = {**picks, down: lower, up: higher}


def _total(problem: Problem, picks: Picks) -> float:
    return float(sum(problem.losses[place][pick] for place, pick in picks.items()))
