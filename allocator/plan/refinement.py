"""Better ranks than the surrogate's optimum, from losses measured around it. Pure: who measures is handed in. No torch.

The surrogate adds up losses of single cuts around the dense model. Where cuts act on each other it errs; then the losses of
single *changes around the plan* are measured and the program is solved again within a trust region:

    loss(plan') ~ loss(plan) + Σ_c Δ_c(r'_c)        Δ_c: the curve's change from the plan's rank, scaled to what was measured

What is of a latent stays so and nothing else becomes it: each component moves along one curve. A plan is taken only if its own
measured loss is lower. The region doubles after a success and halves after a failure. At
the end single swaps (one component down, another up) are tried as a second opinion.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from allocator.plan.ask.constraints import Place, together
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import Question
from allocator.plan.program.solve import Group, resum, solve

ADDITIVE = 0.1
"""The surrogate is believed where the plan's measured loss differs from the predicted one by at most this share of it."""
_ADDED_UP = "additive"
"""Why refinement stopped where it had nothing to do."""
_START_RADIUS = 1 / 8
"""Of each component's options."""
_LEAST_GAIN = 0.01
"""A step that promises less than this share of the loss is not worth measuring."""
_FAILED_SWAPS = 4
"""After so many swaps in a row that were worse than they promised no more are tried."""
_SWAPS_SHARE = 0.25
"""Of the evaluations, kept for the second opinion."""


class Measure(Protocol):
    """Who measures; every loss is the mean KL to the dense model in nats/token on the same windows."""

    def plan(self, ranks: Ranks) -> float:
        """The loss of the whole model at these ranks: one evaluation."""

    def changes(self, ranks: Ranks, trials: Mapping[Place, Sequence[int]]) -> dict[tuple[Place, int], float]:
        """The change of the plan's loss when one component has another rank, for each of ``trials``."""


@dataclass
class Record:
    """The course of a refinement, for the plan's document."""

    evaluations: float = 0.0
    predicted_nats: float = 0.0
    start_nats: float = 0.0
    final_nats: float = 0.0
    stopped: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def additive(self) -> bool:
        """Whether losses added up, so that nothing was left to refine."""
        return self.stopped == _ADDED_UP

    def document(self) -> dict[str, Any]:
        return {
            "evaluations": round(self.evaluations, 2),
            "additivity_error": (self.start_nats - self.predicted_nats) / max(self.start_nats, 1e-12),
            **{name: value for name, value in vars(self).items() if name != "evaluations"},
        }


class _Problem:
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
class _Model:
    """Changes of the loss around a choice: per block the option -> change in nats, within the trust region."""

    center: tuple[int, ...]
    changes: tuple[dict[int, float], ...]

    def within(self, problem: _Problem, radius: Mapping[int, int]) -> _Model:
        """This model with fewer options."""
        near = [set(problem.near(block, pick, radius[block])) for block, pick in enumerate(self.center)]
        nearer = (
            {option: change for option, change in changes.items() if option in options}
            for changes, options in zip(self.changes, near, strict=True)
        )
        return _Model(self.center, tuple(nearer))

    def of(self, choice: Sequence[int]) -> float:
        return math.fsum(changes[pick] for changes, pick in zip(self.changes, choice, strict=True))


def refine(
    question: Question,
    start: Ranks,
    measure: Measure,
    *,
    evaluations: int,
    on_step: Callable[[Record], None] = lambda record: None,
) -> tuple[Ranks, Record]:
    """The best measured ranks found within the budgets and so many evaluations (a cut restarted in mid-model is a part of one).

    Args:
        start: the surrogate's optimum; what is returned is never worse on the measured windows.
        on_step: called after every measurement.
    """
    problem, record = _Problem(question.in_forms_of(start)), Record()
    record.predicted_nats = question.predicted(start)
    loss = record.start_nats = record.final_nats = measure.plan(start)
    record.evaluations = 1
    on_step(record)
    if abs(loss - record.predicted_nats) <= ADDITIVE * loss:
        record.stopped = _ADDED_UP
        return start, record
    choice, reach = problem.question.choice(start), evaluations * (1 - _SWAPS_SHARE)
    radius = {
        block: max(1, round(_START_RADIUS * problem.steps(block))) for block in range(len(problem.blocks))
    }
    record.stopped = "evaluations"
    model: _Model | None = None
    seen = {tuple(choice)}
    while record.evaluations + 1 < reach:
        if model is None:
            model = _measured_model(problem, choice, radius, measure, record, reach - 1)
            on_step(record)
        moved = _solve_within(problem, model)
        gain = -model.of(moved)
        if tuple(moved) in seen or gain < _LEAST_GAIN * loss:
            record.stopped = "no better plan in reach"
            break
        seen.add(tuple(moved))
        loss_there = measure.plan(problem.question.ranks(moved))
        record.evaluations += 1
        step = {"kind": "region", "promised_nats": gain, "from_nats": loss, "to_nats": loss_there}
        record.steps.append({**step, "taken": loss_there < loss})
        on_step(record)
        if loss_there >= loss:
            # What was measured still holds nearer to the plan.
            radius = {block: max(1, size // 2) for block, size in radius.items()}
            model = model.within(problem, radius)
            continue
        won, choice, loss, model = loss - loss_there, moved, loss_there, None
        if won < _LEAST_GAIN * loss:
            record.stopped = "it no longer pays"
            break
        radius = {block: 2 * size for block, size in radius.items()}
    choice, loss = _swaps(problem, model, choice, loss, measure, record, evaluations, on_step)
    record.final_nats = loss
    return problem.question.ranks(choice), record


def _measured_model(
    problem: _Problem,
    choice: Sequence[int],
    radius: Mapping[int, int],
    measure: Measure,
    record: Record,
    most: float,
) -> _Model:
    """Measure one change down and one up of as many components as fit, those with most at stake first."""
    ends: dict[int, list[int]] = {}
    for block, pick in enumerate(choice):
        last = len(problem.options[block]) - 1
        spots = {max(0, pick - radius[block]), min(last, pick + radius[block])} - {pick}
        ends[block] = sorted(spots)
    ranks = problem.question.ranks(choice)

    def stake(block: int) -> float:
        middle = problem.surrogate(block, choice[block])
        return sum(abs(problem.surrogate(block, option) - middle) for option in ends[block])

    layers, spent = problem.question.costs.geometry.layers, record.evaluations
    trials: dict[Place, list[int]] = {}
    for block in sorted(ends, key=stake, reverse=True):
        places = problem.blocks[block]
        if len(places) > 1 or not ends[block]:
            # What is chosen together changes together, which no restart in mid-model covers: the curves speak for it.
            continue
        (place,) = places
        # A layer's first change brings the dense and the cut stream with it, from the model's start.
        streams = 0.0 if any(layer == place[0] for layer, _ in trials) else 1.0
        price = streams + len(ends[block]) * (layers - place[0]) / layers
        if spent + price > most:
            continue
        spent += price
        trials[place] = [problem.options[block][option][0][0] for option in ends[block]]
    changes = measure.changes(ranks, trials) if trials else {}
    record.evaluations = spent
    factors: list[float] = []
    measured: dict[int, dict[int, float]] = {}
    for block, places in enumerate(problem.blocks):
        if len(places) > 1 or places[0] not in trials:
            continue
        middle = problem.surrogate(block, choice[block])
        for option in ends[block]:
            change = changes[places[0], problem.options[block][option][0][0]]
            measured.setdefault(block, {})[option] = change
            expected = problem.surrogate(block, option) - middle
            if abs(expected) > 1e-9:
                factors.append(max(change / expected, 0.0))
    common = statistics.median(factors) if factors else 1.0
    return _Model(
        tuple(choice),
        tuple(
            _block_changes(problem, block, choice[block], radius[block], measured.get(block, {}), common)
            for block in range(len(problem.blocks))
        ),
    )


def _block_changes(
    problem: _Problem, block: int, pick: int, radius: int, measured: Mapping[int, float], common: float
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


def _solve_within(problem: _Problem, model: _Model) -> list[int]:
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


def _swaps(
    problem: _Problem,
    model: _Model | None,
    choice: list[int],
    loss: float,
    measure: Measure,
    record: Record,
    evaluations: int,
    on_step: Callable[[Record], None],
) -> tuple[list[int], float]:
    """One component down and another up by what that frees, best promise first, each measured on its own."""
    if model is None:
        return choice, loss  # nothing has been measured around this plan
    promised = []
    for down, changes in enumerate(model.changes):
        lower = choice[down] - 1
        if lower not in changes:
            continue
        for up, up_changes in enumerate(model.changes):
            if up == down:
                continue
            for option in sorted((o for o in up_changes if o > choice[up]), reverse=True):
                moved = list(choice)
                moved[down], moved[up] = lower, option
                if problem.fits(moved):
                    promised.append((changes[lower] + up_changes[option], down, up, moved))
                    break
    for number, (promise, _, _, moved) in enumerate(sorted(promised)):
        if record.evaluations + 1 > evaluations or promise > 0 or number == _FAILED_SWAPS:
            break
        loss_there = measure.plan(problem.question.ranks(moved))
        record.evaluations += 1
        step = {"kind": "swap", "promised_nats": -promise, "from_nats": loss, "to_nats": loss_there}
        record.steps.append({**step, "taken": loss_there < loss})
        on_step(record)
        if loss_there < loss:
            return moved, loss_there  # the model's center is another now
    return choice, loss
