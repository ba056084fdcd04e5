"""The promises of a plan on time, judged here: its ranks are timed beside the dense model; no checkpoint is needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import parse_budget
from allocator.plan.documents.plan import Plan
from allocator.plan.metrics.counts import timing_of
from allocator.plan.model.latency import LatencyTable, Workload
from allocator.plan.model.ranks import Ranks
from allocator.profiling.timing.design import DENSE, ModelName
from allocator.profiling.timing.models import Setup
from allocator.profiling.timing.passes import times_at

_PLAN: ModelName = ("plan", 0)


@dataclass(frozen=True)
class Promise:
    """A budget on time of a plan: what it may take and what the table says it takes, as fractions of the dense time."""

    text: str
    place: Workload
    limit: float
    promised: float

    def judged(self, ratios: list[float], dense_s: float) -> dict[str, Any]:
        """The measured time beside the promise; ``ask_for`` is a budget that allows for what the sum of parts did not see."""
        low, measured, high = statistics.quantiles(ratios, n=4, method="inclusive")
        met = measured <= self.limit
        return {
            "budget": self.text,
            "limit": self.limit,
            "promised": self.promised,
            "measured": measured,
            "quartiles": [low, high],
            "dense_ns": round(dense_s * 1e9),
            "kept": met,
            "ask_for": None if met else self._tighter(measured),
        }

    def _tighter(self, measured: float) -> str | None:
        """A budget under which the same error of the table would keep the limit; None where there is none to be asked for.

        The plan may have been promised less than its limit: what was measured is set against that.
        """
        share = math.floor(100 * self.limit * min(self.promised, self.limit) / measured) / 100
        batch, context, phase = self.place
        return (
            f"latency={min(share, 1.0)}@batch={batch},context={context},phase={phase}" if share > 0 else None
        )


def promises_of(plan: Plan) -> tuple[list[Promise], LatencyTable]:
    """A plan's budgets on time and the table it was made with.

    Raises:
        InvalidInput: it has none.
    """
    table, promises = plan.latency_table, []
    for row in plan.budgets:
        metric = parse_budget(row.text).metric
        if metric.kind.timed:
            dense_ns = timing_of(table, metric.batch, metric.context, metric.phase).dense_ns
            place = (metric.batch, metric.context, metric.phase)
            promises.append(Promise(row.text, place, row.limit / dense_ns, row.used / dense_ns))
    if table is None or not promises:
        texts = ", ".join(plan.budget_texts)
        clause = f"it has no budget on time ({texts}); allowed is"
        raise InvalidInput.of("plan", texts, "a plan made with --latency-table", clause, at="--plan")
    return promises, table


def judge_promises(
    setup: Setup,
    plan: Plan,
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Time the plan's ranks and the dense model in turns, all layers of them, at every place that it has a budget for.

    Raises:
        InvalidInput: the plan has no such budget, or is of another shape of model than ``setup``, or of longer contexts.
    """
    promises, table = promises_of(plan)
    table.check_fits(setup.geometry)
    places = [promise.place for promise in promises]
    setup.check(places)
    layers = setup.geometry.layers
    ranks = {DENSE: Ranks.dense(setup.geometry), _PLAN: plan.chosen}
    models = {name: setup.at(layers, at) for name, at in ranks.items()}
    verdicts = []
    for promise, (_, seconds) in zip(promises, times_at(setup, models, places, on_turn), strict=True):
        ratios = [cut / dense for cut, dense in zip(seconds[_PLAN], seconds[DENSE], strict=True)]
        verdicts.append(promise.judged(ratios, statistics.median(seconds[DENSE])))
    return verdicts
