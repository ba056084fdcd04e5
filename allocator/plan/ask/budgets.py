"""Budgets as people write them: ``metric=value[@option=value,...]``.

    block_params=0.8        kv_bytes_per_token=65536        memory=24GiB@batch=8,context=131072
    flops_per_token=0.8@context=2048,phase=decode            memory=24GiB@context=8192,weights=int8,cache=fp8

A number in (0, 1] is a fraction of the dense model; a number >= 2, or one with a suffix (K, M, G, KiB, MiB, GiB; of a latency
ns, us, ms, s), is absolute in the metric's unit. Everything else is an error that says what would work.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from allocator.base.errors import BudgetSyntax, FieldError
from allocator.plan.model.costs import METRICS, CostModel, Metric, timing_of
from allocator.plan.model.dtypes import ALIASES, CACHES, WEIGHTS
from allocator.plan.model.latency import LatencyTable

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIMES = {"": 1, "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_VALUE = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?)(?P<suffix>[A-Za-z]*)")
OPTIONS = {
    "memory": ("batch", "context", "weights", "cache"),
    "kv_bytes_per_token": ("cache",),
    "flops_per_token": ("context", "phase"),
    "latency": ("batch", "context", "phase"),
}
"""Metric -> its options, in the order in which a budget is written."""
WORDS: dict[str, Collection[str]] = {
    "phase": ("prefill", "decode"),
    "weights": WEIGHTS,
    "cache": CACHES,
}
"""Options whose value is one of some words."""
_EXAMPLES = {
    "params": "params=0.8",
    "block_params": "block_params=0.8",
    "kv_bytes_per_token": "kv_bytes_per_token=0.5",
    "flops_per_token": "flops_per_token=0.8@context=2048,phase=prefill",
    "memory": "memory=24GiB@batch=8,context=131072",
    "latency": "latency=12ms@batch=1,context=2048,phase=decode",
}
_LONGEST = 200
_LARGEST = 2**53 - 1
"""Plans are named by their canonical JSON, whose integers end here (RFC 8785); no model uses 9 PB."""


@dataclass(frozen=True)
class Budget:
    """One upper limit: a fraction of the dense model or an absolute amount, exactly one of the two."""

    text: str
    metric: Metric
    fraction: Fraction | None = None
    absolute: int | None = None

    @property
    def value(self) -> str:
        """The limit as it is written: ``0.8``, ``24GiB``."""
        return self.text.partition("@")[0].partition("=")[2]

    def limit(self, costs: CostModel) -> int:
        """The limit in the metric's unit, rounded down."""
        if self.absolute is not None:
            return self.absolute
        assert self.fraction is not None
        return int(self.fraction * costs.dense(self.metric))

    def document(self, costs: CostModel) -> dict[str, Any]:
        return {"metric": self.metric.label, "limit": self.limit(costs), "unit": self.metric.unit}


def budget_text(label: str, value: object) -> str:
    """The budget that limits a metric, of its label (``Metric.label``) and a value."""
    name, at, options = label.partition("@")
    return f"{name}={value}{at}{options}"


def _fail(text: str, allowed: str, *, index: int | None) -> BudgetSyntax:
    where = "budget" if index is None else f"budgets[{index}]"
    detail = f"{where}: {text!r} is not a budget: {allowed}"
    return BudgetSyntax(detail, fields=[FieldError(where, text, allowed)])


def _amount(text: str, value: str, name: str, index: int | None) -> tuple[Fraction | None, int | None]:
    suffixes = _TIMES if METRICS[name] == "ns" else _SUFFIXES
    allowed = f"the value must be a fraction in (0, 1] or a number >= 2, as in {_EXAMPLES[name]!r}"
    match = _VALUE.fullmatch(value)
    if match is None or match["suffix"] not in suffixes:
        raise _fail(text, allowed, index=index)
    try:
        number = Fraction(Decimal(match["number"]))
    except InvalidOperation:
        raise _fail(text, allowed, index=index) from None
    suffix = match["suffix"]
    if not suffix and 0 < number <= 1:
        return number, None
    amount = number * suffixes[suffix]
    if amount < 2 or amount > _LARGEST or (not suffix and number < 2):
        raise _fail(text, allowed, index=index)
    return None, int(amount)


def _one_of(words: Collection[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def _options(text: str, name: str, rest: str, index: int | None) -> dict[str, Any]:
    known, example = OPTIONS.get(name, ()), _EXAMPLES[name]
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        key, _, value = part.partition("=")
        if key not in known or key in options:
            what = f"options of {name} are {', '.join(known)}" if known else f"{name} takes no options"
            raise _fail(text, f"{what}, as in {example!r}", index=index)
        if key in WORDS:
            value = ALIASES.get(value, value)
            if value not in WORDS[key]:
                raise _fail(text, f"{key} is {_one_of(WORDS[key])}", index=index)
            options[key] = value
        elif value.isascii() and value.isdigit() and 1 <= len(value) <= 9 and int(value) >= 1:
            options[key] = int(value)
        else:
            raise _fail(text, f"{key} must be a whole number from 1 to 999999999", index=index)
    if options.get("batch", 1) * options.get("context", 1) > 10**12:
        raise _fail(text, "batch x context must be at most 10^12 tokens", index=index)
    if name in ("memory", "latency") and "context" not in options:
        raise _fail(
            text,
            f"{name} needs a context length (and a batch unless it is 1), as in {example!r}",
            index=index,
        )
    if name == "latency" and "phase" not in options:
        raise _fail(text, f"latency needs a phase, prefill or decode, as in {example!r}", index=index)
    return options


def parse_budget(text: str, *, index: int | None = None) -> Budget:
    """Read one budget.

    Raises:
        BudgetSyntax: unknown metric, value outside (0, 1] and [2, ...), unknown or malformed option.
    """
    if len(text) > _LONGEST:
        raise _fail(text[:40] + "...", f"it is longer than {_LONGEST} characters", index=index)
    head, at, rest = text.strip().partition("@")
    name, equals, value = head.partition("=")
    if not equals or name not in METRICS:
        raise _fail(
            text,
            f"write metric=value with one of {', '.join(METRICS)}, as in 'block_params=0.8'",
            index=index,
        )
    if at and not rest:
        raise _fail(text, f"nothing follows '@'; as in {_EXAMPLES[name]!r}", index=index)
    fraction, absolute = _amount(text, value, name, index)
    return Budget(text.strip(), Metric(name, **_options(text, name, rest, index)), fraction, absolute)


def check_timed(budgets: Sequence[Budget], latency: LatencyTable | None) -> None:
    """Raises InvalidInput where a budget on latency has no table, or the table not its batch, context and phase."""
    for budget in budgets:
        if budget.metric.name == "latency":
            timing_of(latency, budget.metric)


def parse_metric(text: str) -> Metric:
    """Read a budget without its value, as in ``kv_bytes_per_token`` or ``memory@batch=8,context=131072``.

    Raises:
        BudgetSyntax: unknown metric, unknown or malformed option.
    """
    name, at, rest = text.strip().partition("@")
    if name not in METRICS or len(text) > _LONGEST:
        raise _fail(text[:40], f"a metric is one of {', '.join(METRICS)}", index=None)
    return parse_budget(f"{name}=1{at}{rest}").metric


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    """Read several budgets; the same metric with the same options may appear once.

    Raises:
        BudgetSyntax: as ``parse_budget``; also for an empty list or a repeated metric.
    """
    if not texts:
        raise _fail("", "at least one budget is needed, as in 'block_params=0.8'", index=None)
    budgets = [parse_budget(text, index=index) for index, text in enumerate(texts)]
    labels = [budget.metric.label for budget in budgets]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            raise _fail(texts[index], f"{label} already has a budget; keep the smaller one", index=index)
    return budgets
