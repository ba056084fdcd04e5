"""Groups whose costs follow no line: what several of them can use together, and the least reduced cost of each use.

Four-bit weights and measured times make staircases. The groups of a kind share theirs, so that what they use together is told
by which ranks they have, not by who has which: of n groups with k ranks in question there are few uses, and most of them are
priced out by the relaxation. For each one a dynamic program keeps the least reduced cost, as it does for lines
(``allocator.plan.program.enumeration``), only that uses are vectors in exact integers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from allocator.plan.program.bound import Choice, Relaxation

_WIDEST = 1 << 17
_AT_ONCE = 1 << 21
_DEARER = 4
"""What a combination takes to be merged, in those that `enumeration` only looks at."""


@dataclass(frozen=True)
class Staircase:
    """Groups whose option o costs ``rise_BO[:, o]`` more than their first one, in exact integers."""

    groups: list[int]
    rise_BO: np.ndarray


@dataclass(frozen=True)
class StaircaseTable:
    """For uses (from the relaxation's choice) the least reduced cost, and how it is reached."""

    kind: Staircase
    used_BS: np.ndarray
    reduced: np.ndarray
    picks: list[tuple[np.ndarray, np.ndarray]]
    """Per group: which of the uses before it each use continues, and by which option."""

    def trace(self, spot: int, choice: Choice) -> None:
        """Write the options that reach the use at ``spot`` into ``choice``."""
        for g, (before, option) in zip(reversed(self.kind.groups), reversed(self.picks), strict=True):
            choice[g] = int(option[spot])
            spot = int(before[spot])


def staircase_table(
    kind: Staircase, relaxation: Relaxation, reach: float, most_states: int, ends: float
) -> tuple[StaircaseTable | None, int]:
    """The table, and how many combinations were looked at; None where there are too many, or time ran out."""
    used_BS = np.zeros((len(kind.rise_BO), 1), dtype=np.int64)
    reduced, states = np.zeros(1), 0
    picks: list[tuple[np.ndarray, np.ndarray]] = []
    for g in kind.groups:
        price_O = relaxation.reduced_GO[g, : kind.rise_BO.shape[1]]
        kept = np.flatnonzero(price_O <= reach)
        sums_SK = reduced[:, None] + price_O[kept]
        before, spot = np.nonzero(sums_SK <= reach)
        states += _DEARER * sums_SK.size
        if states > most_states or len(before) > _AT_ONCE or time.monotonic() > ends:
            return None, states
        option = kept[spot]
        moved_BS = used_BS[:, before] + kind.rise_BO[:, option] - kind.rise_BO[:, [relaxation.choice[g]]]
        price_S = sums_SK[before, spot]
        order = np.lexsort((price_S, *moved_BS))
        moved_BS = moved_BS[:, order]
        fresh = np.r_[True, (moved_BS[:, 1:] != moved_BS[:, :-1]).any(axis=0)]
        used_BS, reduced, first = moved_BS[:, fresh], price_S[order][fresh], order[fresh]
        if len(reduced) > _WIDEST:
            return None, states
        picks.append((before[first].astype(np.int32), option[first].astype(np.int16)))
    return StaircaseTable(kind, used_BS, reduced, picks), states
