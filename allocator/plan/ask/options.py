"""How the integer program may be told to solve: names and limits, light enough for whoever only checks a request."""

from __future__ import annotations

from typing import Literal, get_args

from allocator.base.errors import FieldError, InvalidInput

Solver = Literal["highs", "cbc"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
MOST_STATES = 20_000_000
"""Combinations of sums that enumeration looks at, about a second's worth; beyond it the question goes to a solver."""
LARGEST_MOST_STATES = 10**10
"""What may be asked for instead: some minutes."""


def checked_solver(program_solver: str, most_states: int) -> Solver:
    """The program's solver by its name.

    Raises:
        InvalidInput: no such solver, or a number of states that nobody could enumerate.
    """
    if not 0 <= most_states <= LARGEST_MOST_STATES:
        allowed = f"a whole number from 0 to {LARGEST_MOST_STATES}"
        raise InvalidInput(
            f"most_states: {most_states} is not {allowed}",
            fields=[FieldError("most_states", str(most_states), allowed)],
        )
    for solver in SOLVERS:
        if solver == program_solver:
            return solver
    allowed = " or ".join(SOLVERS)
    raise InvalidInput(
        f"program_solver: {program_solver!r} is not {allowed}",
        fields=[FieldError("program_solver", program_solver, allowed)],
    )
