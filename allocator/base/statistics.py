"""Means with their standard errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Mean over windows and its standard error (neighbouring tokens of a window are not independent)."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread
