"""Shadow prices in units that people use: "0.0040 nats per 100 MB of memory"."""

from __future__ import annotations

import math

from allocator.plan.metrics.kind import BYTES, NANOSECONDS
from allocator.plan.metrics.metric import Metric

_TIMES = ("ns", "us", "ms", "s")
_PREFIXES = ("", "K", "M", "G", "T", "P")


def price_per(metric: Metric, price: float, limit: int) -> str:
    """The gain of relaxing a budget a little, in nats/token.

    Args:
        price: nats/token per one unit of the metric.
        limit: the budget's size: the price is told for a power of ten between 1 and 10 % of it.
    """
    if price <= 0:
        return "0 nats: more of it would win nothing"
    exponent = max(math.floor(math.log10(max(limit, 1))) - 1, 0)
    prefixes = _TIMES if metric.unit == NANOSECONDS else _PREFIXES
    thousands = min(exponent // 3, len(prefixes) - 1)
    amount = f"{10 ** (exponent - 3 * thousands)} {prefixes[thousands]}"
    if metric.unit == BYTES:
        amount = f"{amount}B" if thousands else amount + ("byte" if exponent == 0 else "bytes")
    won = f"{price * 10**exponent:#.2g}".rstrip(".")
    return f"{won} nats per {amount.strip()} {metric.kind.priced}"
