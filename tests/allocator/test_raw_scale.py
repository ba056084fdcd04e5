"""Raw nats beside raw bytes: a bare program says "Optimal" far from the optimum, ours is right."""

from __future__ import annotations

import warnings

import numpy as np
import pulp
import pytest

from allocator.plan.program.solve import Group, Row, resum, solve
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


def bare_cbc(groups: list[Group], rows: list[Row]) -> tuple[str, list[int]]:
    """The program as one would write it: no scaling, PuLP's default CBC, its status believed."""
    problem = pulp.LpProblem("bare", pulp.LpMinimize)
    options = [
        [problem.add_variable(f"x_{g}_{o}", cat="Binary") for o in range(len(group.losses))]
        for g, group in enumerate(groups)
    ]
    problem += pulp.lpSum(
        group.losses[o] * x for group, row in zip(groups, options, strict=True) for o, x in enumerate(row)
    )
    for row in options:
        problem += pulp.lpSum(row) == 1
    spent = pulp.lpSum(
        group.costs[0][o] * x for group, row in zip(groups, options, strict=True) for o, x in enumerate(row)
    )
    problem += spent <= rows[0].limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(pulp.PULP_CBC_CMD(msg=False))
    return pulp.LpStatus[problem.status], [int(np.argmax([x.value() or 0 for x in row])) for row in options]


@pytest.mark.parametrize("seed", [0, 9, 22, 27])
@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_bare_cbc_is_wrong_and_the_program_right(seed: int, solver: str) -> None:
    groups, rows = raw_instance(seed)
    best, _ = optimum(groups, rows)
    status, choice = bare_cbc(groups, rows)
    loss = sum(group.losses[pick] for group, pick in zip(groups, choice, strict=True))
    assert status == "Optimal"
    assert resum(groups, rows, choice)[0] <= rows[0].limit, "it is a plan, only a bad one"
    assert loss > 1.05 * best
    for most_states in (0, 1_000_000):
        solution = solve(groups, rows, solver=solver, most_states=most_states)
        # Below 1e-9 nats in all, differences are of no interest.
        assert solution.loss_nats <= best * (1 + 1e-4) + 1e-9
        assert solution.used[0] <= rows[0].limit
    assert solve(groups, rows).loss_nats == pytest.approx(best, rel=1e-4)
