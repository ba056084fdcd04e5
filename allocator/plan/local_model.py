"""A model of the loss around a plan: the change by every option, and the best plan by it. No torch.

loss(plan') ~ loss(plan) + Σ_c Δ_c(r'_c)        Δ_c: the curve's change from the plan's rank, scaled to what was measured
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allocator.plan.ask.constraints import together
from allocator.plan.program.problem import Question
from allocator.plan.program.solve import Group, resum, solve


class LocalProblem:
    """A question as indices: blocks of components that move together, and the options of each."""

    def __init__(self, question: Question) -> None:
        self.question, self.blocks = question, question.limits.blocks()
        self.options = question.options
        self._spots = [self._steps(block) for block in range(len(self.blocks))]

    def _steps(self, block: int) -> list[tuple[int, ...]]:
        """Option by option, how many steps each of its parts is from its first."""
        columns = [list(dict.fromkeys(column)) for column in zip(*self.options[block], strict=True)]
        return [tuple(map(list.index, columns, option)) for option in self.options[block]]

    def steps(self, block: int) -> int:
        """Over how many ranks a block's parts move."""
        return 1 + max(self._spots[block][-1])

    def near(self, block: int, pick: int, radius: int) -> list[int]:
        """The options that no part of which is further than ``radius`` steps from the picked one's."""
        if not self.pair(block):
            last = len(self.options[block]) - 1
            return list(range(max(0, pick - radius), min(last, pick + radius) + 1))
        center = self._spots[block][pick]
        return [
            option
            for option, spots in enumerate(self._spots[block])
            if all(abs(spot - middle) <= radius for spot, middle in zip(spots, center, strict=True))
        ]

    def pair(self, block: int) -> bool:
        """Whether its options lie in two directions."""
        return together(self.blocks[block])

    def surrogate(self, block: int, option: int) -> float:
        return self.question.groups[block].losses[option]

    def fits(self, choice: Sequence[int]) -> bool:
        used = resum(self.question.groups, self.question.rows, list(choice))
        return all(value <= row.limit for value, row in zip(used, self.question.rows, strict=True))


@dataclass(frozen=True)
class LocalModel:
    """Changes of the loss around a choice: per block the option -> change in nats, within the trust region."""

    center: tuple[int, ...]
    changes: tuple[dict[int, float], ...]

    def within(self, problem: LocalProblem, radius: Mapping[int, int]) -> LocalModel:
        """This model with fewer options."""
        near = [set(problem.near(block, pick, radius[block])) for block, pick in enumerate(self.center)]
        nearer = (
            {option: change for option, change in changes.items() if option in options}
            for changes, options in zip(self.changes, near, strict=True)
        )
        return LocalModel(self.center, tuple(nearer))

    def of(self, choice: Sequence[int]) -> float:
        return math.fsum(changes[pick] for changes, pick in zip(self.changes, choice, strict=True))


def block_changes(
    problem: LocalProblem, block: int, pick: int, radius: int, measured: Mapping[int, float], common: float
) -> dict[int, float]:
    """Option -> change: the curve's shape between the plan's rank and the measured ones, scaled to meet them; monotone."""
    middle, last = problem.surrogate(block, pick), len(problem.options[block]) - 1
    if problem.pair(block):
        near = problem.near(block, pick, radius)
        return {option: (problem.surrogate(block, option) - middle) * common for option in near}
    changes = {pick: 0.0}
    for option in range(max(0, pick - radius), min(last, pick + radius) + 1):
        if option == pick:
            continue
        end = max(0, pick - radius) if option < pick else min(last, pick + radius)
        expected, shape = problem.surrogate(block, option) - middle, problem.surrogate(block, end) - middle
        if end not in measured:
            changes[option] = expected * common
        elif abs(shape) > 1e-9:
            changes[option] = measured[end] * expected / shape
        else:
            changes[option] = measured[end] * (option - pick) / (end - pick)
    # More rank must not cost more than less: what noise says otherwise is flattened.
    smallest = math.inf
    for option in sorted(changes):
        smallest = changes[option] = min(changes[option], smallest)
    shift = changes[pick]
    return {option: change - shift for option, change in changes.items()}


def best_choice(problem: LocalProblem, model: LocalModel) -> list[int]:
    """The best choice within the region by the local model, under all budgets."""
    inside = [sorted(changes) for changes in model.changes]
    groups = []
    for changes, options, prices in zip(
        model.changes, inside, (group.costs for group in problem.question.groups), strict=True
    ):
        floor = min(changes.values())
        groups.append(
            Group(
                "",
                tuple(changes[option] - floor for option in options),
                tuple(tuple(row[option] for option in options) for row in prices),
            )
        )
    choice = solve(groups, problem.question.rows).choice
    return [options[pick] for options, pick in zip(inside, choice, strict=True)]
