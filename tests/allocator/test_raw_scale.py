"""Raw nats beside raw bytes: a bare program says "Optimal" far from the optimum, ours is right."""

from __future__ import annotations

import numpy as np
import pytest

from allocator.plan.program.solve import Group, Row, solve
from tests.support.programs import optimum


def raw_instance(seed: int) -> tuple[list[Group], list[Row]]:
    """Six or seven components, losses of 1e-9 to 1e-5 nats, costs of 1e5 to 1e12 bytes."""
    random = np.random.default_rng(seed)
    scale, unit = 10.0 ** random.integers(-8, -5), 10 ** int(random.integers(5, 11))
    shares = np.arange(1, 6) / 5
    groups = []
    for g in range(int(random.integers(6, 8))):
        height, power = scale * 10.0 ** random.uniform(-1, 1), random.uniform(0.5, 3)
        slope = int(random.integers(1, 100)) * unit
        losses = tuple(map(float, height * (shares**-power - 1)))
        groups.append(Group(f"g{g}", losses, (tuple(slope * (o + 1) for o in range(5)),)))
    most = sum(group.costs[0][-1] for group in groups)
    return groups, [Row("memory", int(most * random.uniform(0.4, 0.8)), 0, "bytes")]


@pytest.mark.parametrize("seed", [0, 9, 22, 27])
@pytest.mark.parametrize("most_states", [0, 1_000_000])
def test_raw_scales_are_solved_to_the_optimum(seed: int, most_states: int) -> None:
    """Instances whose unscaled program ends as "Optimal" 5 % and more above the best plan (CBC 2.10.3 through PuLP)."""
    groups, rows = raw_instance(seed)
    best, _ = optimum(groups, rows)
    solution = solve(groups, rows, most_states=most_states)
    # Below 1e-9 nats in all, differences are of no interest.
    assert solution.loss_nats <= best * (1 + 1e-4) + 1e-9
    assert solution.used[0] <= rows[0].limit
