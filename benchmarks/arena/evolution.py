"""EvoPress: evolution with level switches, on the measured loss of whole candidates."""

from __future__ import annotations

import random

from allocator.plan.model.ranks import Ranks
from benchmarks.arena.problem import Picks, Problem
from benchmarks.arena.shares import uniform

OFFSPRING = 8
STAGES = ((1, 3), (3, 1))
"""(windows, survivors) of the offspring's selection; the last stage is ``FINAL_WINDOWS``, with the parent among them."""
FINAL_WINDOWS = 8
LEVELS = 16
"""A level is this part of a component's candidates."""
MOST_SWITCHES = 3


def evopress(problem: Problem) -> Ranks:
    """EvoPress (arXiv 2410.14649; ``evo_prune_search.py``): (1 + λ), mutation by level switches, selection in stages.

    The parent starts uniform; a child has min(U{1..3}, U{1..3}) pairs of components, one a level down and another up;
    children are selected on ever more windows, the last ones against the parent. Fitness is KL to the dense model of the
    whole candidate. Here λ is 8 (64 there) and the windows fewer, so that all generations together run as many windows as
    our curves took to measure (of several such splits the best on the curves of a bundled model). A level down may pay for
    levels of another kind of component: as many ranks as fit.
    """
    generator = random.Random(1)
    parent = problem.filled(problem.picks(uniform(problem)), problem.places)
    loss = problem.loss(problem.ranks(parent), FINAL_WINDOWS)
    started = problem.spent
    generation = OFFSPRING * STAGES[0][0] + STAGES[0][1] * STAGES[1][0] + STAGES[1][1] * FINAL_WINDOWS
    while problem.spent - started + generation <= problem.windows:
        children = [_mutated(problem, parent, generator) for _ in range(OFFSPRING)]
        for windows, survivors in STAGES:
            fitness = [problem.loss(problem.ranks(child), windows) for child in children]
            order = sorted(range(len(children)), key=fitness.__getitem__)
            children = [children[spot] for spot in order[:survivors]]
        for child in children:
            child_loss = problem.loss(problem.ranks(child), FINAL_WINDOWS)
            if child_loss < loss:
                parent, loss = child, child_loss
    return problem.ranks(parent)


def _mutated(problem: Problem, parent: Picks, generator: random.Random) -> Picks:
    """A child within the budgets that differs from its parent, if one turns up in a few tries."""
    child = parent
    for _ in range(min(generator.randint(1, MOST_SWITCHES), generator.randint(1, MOST_SWITCHES))):
        for _ in range(8):
            down, up = generator.sample(problem.places, 2)
            switched = _switched(problem, child, down, up)
            if switched is not None:
                child = switched
                break
    return child


def _switched(problem: Problem, picks: Picks, down: tuple, up: tuple) -> Picks | None:
    """``down`` a level lower, ``up`` as high as that pays for but no more than a level; None if nothing moves up."""
    lower = max(0, picks[down] - _level(problem, down))
    changed = {**picks, down: lower}
    top = min(len(problem.ranks_of[up]) - 1, picks[up] + _level(problem, up))
    while top > picks[up] and lower < picks[down]:
        if problem.fits({**changed, up: top}):
            return {**changed, up: top}
        top -= 1
    return None


def _level(problem: Problem, place: tuple) -> int:
    return max(1, len(problem.ranks_of[place]) // LEVELS)
