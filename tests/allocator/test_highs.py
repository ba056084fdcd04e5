"""HiGHS alone, without our own bound and enumeration: what it answers is within its gap of all plans tried out."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings

from allocator.plan.program.bound import Instance, instance_of
from allocator.plan.program.highs import RELATIVE_GAP, Answer, branch_and_bound
from allocator.plan.program.solve import Group, Row
from tests.support.programs import kinds, optimum, uses

LARGE = 10**13
"""So large a limit that one unit more is within HiGHS's tolerance."""


def answered(instance: Instance, room: list[int], options: list[np.ndarray] | None = None) -> Answer:
    groups, _ = instance.losses_GO.shape
    if options is None:
        options = [np.flatnonzero(np.isfinite(instance.losses_GO[g])) for g in range(groups)]
    worst = float(sum(instance.losses_GO[g, option].max() for g, option in enumerate(options)))
    return branch_and_bound(instance, np.array(room), options, max(worst, 1e-9), time_limit_s=30.0)


@settings(max_examples=40, deadline=None)
@given(kinds())
def test_its_choice_is_within_the_gap_of_the_best_of_all(program: tuple[list[Group], list[Row]]) -> None:
    groups, rows = program
    best, _ = optimum(groups, rows)
    instance = instance_of([g.losses for g in groups], [g.costs for g in groups], len(rows))
    answer = answered(instance, [row.limit - row.constant for row in rows])
    if answer.choice is None:  # nothing fits, or what does was too near the limit for it to see
        assert not answer.finished
        return
    loss = math.fsum(group.losses[pick] for group, pick in zip(groups, answer.choice, strict=True))
    used = uses(groups, rows, answer.choice)
    slack = RELATIVE_GAP * max(loss, 1e-9) + 1e-9
    assert answer.bound <= best + slack
    if answer.finished:
        assert all(use <= row.limit for use, row in zip(used, rows, strict=True))
        assert best - 1e-12 <= loss <= best + slack


def test_a_choice_that_a_tolerance_let_through_is_cut_off() -> None:
    # The larger option of the first group is one unit over the limit, and would lose less.
    instance = instance_of([[1.0, 0.0], [0.3, 0.0]], [[[LARGE // 2, LARGE]], [[0, 1]]], 1)
    answer = answered(instance, [LARGE])
    assert answer.choice == [1, 0]
    assert answer.finished
    assert answer.bound <= 0.3 * (1 + 1e-9)
    assert answer.bound >= 0.3 * (1 - RELATIVE_GAP)
    # With a unit more it fits, to the last unit.
    answer = answered(instance, [LARGE + 1])
    assert answer.choice == [1, 1]
    assert answer.finished


def test_every_choice_over_the_limit_is_cut_off_alone() -> None:
    # Three groups whose second options are each one unit over: the seven choices that take any of them do not fit.
    third = LARGE // 3
    costs = [[[third, third + 1]]] * 3
    instance = instance_of([[0.5, 0.0], [0.25, 0.0], [0.125, 0.0]], costs, 1)
    answer = answered(instance, [3 * third])
    assert answer.choice == [0, 0, 0]
    assert answer.finished
    assert answered(instance, [3 * third + 1]).choice == [1, 0, 0]
    assert answered(instance, [3 * third + 2]).choice == [1, 1, 0]


def test_more_choices_over_the_limit_than_are_cut_off_leave_it_open() -> None:
    # Six groups: 63 choices are over by one to six units, more than it cuts off.
    sixth = LARGE // 6
    instance = instance_of([[1.0, 0.0]] * 6, [[[sixth, sixth + 1]]] * 6, 1)
    answer = answered(instance, [6 * sixth])
    assert answer.choice is not None
    assert not answer.finished
    assert math.isfinite(answer.bound)
    assert answer.bound <= 6.0


def test_where_nothing_fits_there_is_no_choice() -> None:
    instance = instance_of([[1.0, 0.0]], [[[5, 7]]], 1)
    answer = answered(instance, [4])
    assert answer.choice is None
    assert not answer.finished


def test_only_the_options_that_are_left_are_chosen() -> None:
    instance = instance_of([[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]], [[[1, 2, 3]], [[1, 2, 3]]], 1)
    answer = answered(instance, [6], [np.array([0, 1]), np.array([1, 2])])
    assert answer.choice == [1, 2]
    assert answer.finished
