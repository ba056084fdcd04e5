"""Better ranks than the surrogate's optimum, from losses measured around it. Pure: who measures is handed in. No torch.

The surrogate adds up losses of single cuts around the dense model. Where cuts act on each other it errs; then the losses of
single *changes around the plan* are measured and the program is solved again within a trust region
(`allocator.plan.local_model`).

What is of a latent stays so and nothing else becomes it: each component moves along one curve. A plan is taken only if its own
measured loss is lower. The region doubles after a success and halves after a failure. At the end single swaps (one component
down, another up) are tried as a second opinion.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from allocator.plan.ask.constraints import Place
from allocator.plan.local_model import LocalModel, LocalProblem, best_choice, block_changes
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import Question

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
        """The change of the plan's loss when one component has another rank, for each of ``trials``; layers cost ``price``."""


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


def price(layer: int, cuts: int, layers: int, *, streams: bool = True) -> float:
    """Evaluations that so many cuts of a layer are: each runs through the layers from its own on.

    Args:
        streams: the dense and the cut stream are brought to the layer from the model's start, once for all of its cuts.
    """
    return float(streams) + cuts * (layers - layer) / layers


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
    problem, record = LocalProblem(question.in_forms_of(start)), Record()
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
    model: LocalModel | None = None
    seen = {tuple(choice)}
    while record.evaluations + 1 < reach:
        if model is None:
            model = _measured_model(problem, choice, radius, measure, record, reach - 1)
            on_step(record)
        moved = best_choice(problem, model)
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
    problem: LocalProblem,
    choice: Sequence[int],
    radius: Mapping[int, int],
    measure: Measure,
    record: Record,
    most: float,
) -> LocalModel:
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
        first = not any(layer == place[0] for layer, _ in trials)
        evaluations = price(place[0], len(ends[block]), layers, streams=first)
        if spent + evaluations > most:
            continue
        spent += evaluations
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
    return LocalModel(
        tuple(choice),
        tuple(
            block_changes(problem, block, choice[block], radius[block], measured.get(block, {}), common)
            for block in range(len(problem.blocks))
        ),
    )


def _swaps(
    problem: LocalProblem,
    model: LocalModel | None,
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
