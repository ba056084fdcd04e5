"""Rules of the benchmark of ranks and bits, on curves made by hand: all within the same bytes, the joint plan no worse."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.plan.ask.budgets import parse_budget, parse_budgets
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import question
from benchmarks.rank_bits import MEMORY, RULES, ranks_by_rule, table
from tests.support.profiles import SMALL, quantized_profile


@pytest.mark.parametrize("keep", ["0.9", "0.6", "0.42"])
def test_every_rule_keeps_the_bytes_and_none_is_predicted_better_than_both(keep: str) -> None:
    profile, costs = quantized_profile(), CostModel(SMALL)
    found = dict(ranks_by_rule(costs, profile, keep))
    assert list(found) == list(RULES)
    budget = parse_budget(MEMORY.format(keep))
    asked = question(profile, parse_budgets([MEMORY.format(keep)]))
    for rule, ranks in found.items():
        if ranks is None:
            assert rule in ("ranks", "uniform")
            continue
        assert costs.total(budget.metric, ranks) <= budget.limit(costs)
        both = found["both"]
        assert both is not None
        assert asked.predicted(both) <= asked.predicted(ranks) * (1 + 1e-4)
    assert {bits for row in (found["after"] or Ranks((), (), ())).bits for bits in row} == {4}
    assert found["ranks"] is None or not found["ranks"].bits


def test_the_table_tells_what_is_out_of_reach() -> None:
    ranks = Ranks((8, 8), (8, 8), (64, 64)).with_bits([(8, None, 4), (4, 4, 4)]).layers()
    row: dict[str, Any] = {"model": "tiny", "kept": "0.5", "rule": "both", "ranks": ranks, "share": 0.4987}
    row |= {"bytes": 1, "predicted_nats": 0.01, "measured_nats": 0.02, "rise_nats": 0.03}
    bare = {**row, "kept": "1", "rule": "int8", "predicted_nats": None}
    lines = table([bare, {**row, "rule": "ranks", "ranks": None}, row]).splitlines()
    assert lines[2] == "| tiny | - | all int8, nothing cut | 49.9% | - | 0.0200 | 0.0300 | 1, 1, 4 |"
    assert lines[3] == "| tiny | 50% | mixed ranks, own type | out of reach | | | | |"
    assert lines[4].startswith("| tiny | 50% | **mixed ranks and bits** | 49.9% | 0.0100 |")
