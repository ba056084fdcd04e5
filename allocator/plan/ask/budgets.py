"""Budgets as people write them: ``metric=value[@option=value,...]``.

    block_params=80%        kv_bytes_per_token=65_536        memory=24GiB@batch=8,context=128k
    flops_per_token=0.8x@context=2048,phase=decode           memory=24GB@context=8192,weights=int8,cache=fp8

A number in (0, 1], or one with % or x, is a fraction of the dense model; a number >= 2, or one with another suffix
(``allocator.plan.ask.amounts``), is absolute in the metric's unit. Everything else is an error that says what would work.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from allocator.base.errors import BudgetSyntax
from allocator.plan.ask.amounts import NotAnAmount, in_both, read_amount, read_count
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.counts import timing_of
from allocator.plan.metrics.kind import WORDS
from allocator.plan.metrics.metric import Metric
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.dtypes import ALIASES
from allocator.plan.model.latency import LatencyTable

_NEEDS = {
    "context": "a context length (and a batch unless it is 1)",
    "phase": "a phase, prefill or decode",
}
"""What a budget is told that lacks an option without a default."""
_LONGEST = 200
_MOST_TOKENS = 999_999_999
LARGEST = 2**53 - 1
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

    def understood(self, costs: CostModel) -> str:
        """The text's meaning in exact numbers: ``block_params <= 884,736 parameters (80 % of 1,105,920)``."""
        limit, unit = self.limit(costs), self.metric.unit
        words = [in_both(limit, unit)]
        if self.fraction is not None:
            words = [f"{float(100 * self.fraction):.6g} % of {costs.dense(self.metric):,}"]
        meant = f" ({', '.join(filter(None, words))})" if any(words) else ""
        return f"{self.metric.label} <= {limit:,} {unit}{meant}"


def budget_text(label: str, value: object) -> str:
    """The budget that limits a metric, of its label (``Metric.label``) and a value."""
    name, at, options = label.partition("@")
    return f"{name}={value}{at}{options}"


def _fail(text: str, allowed: str, *, index: int | None) -> BudgetSyntax:
    where = "budget" if index is None else f"budgets[{index}]"
    return BudgetSyntax.of(where, text, allowed, f"{text!r} is not a budget:")


def _amount(text: str, value: str, name: str, index: int | None) -> tuple[Fraction | None, int | None]:
    try:
        amount, relative = read_amount(value, METRICS[name].unit)
        if relative:
            return amount, None
        if amount > LARGEST:
            raise NotAnAmount("it is too large")
        return None, int(amount)
    except NotAnAmount as error:
        allowed = f"the value must be a fraction in (0, 1] or a number >= 2, as in {METRICS[name].example!r}"
        raise _fail(text, f"{error}; {allowed}" if str(error) else allowed, index=index) from None


def _one_of(words: Collection[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def _options(text: str, name: str, rest: str, index: int | None) -> dict[str, Any]:
    names, example = METRICS[name].options, METRICS[name].example
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in names or key in options:
            what = f"options of {name} are {', '.join(names)}" if names else f"{name} takes no options"
            raise _fail(text, f"{what}, as in {example!r}", index=index)
        if key in WORDS:
            value = ALIASES.get(value, value)
            if value not in WORDS[key]:
                raise _fail(text, f"{key} is {_one_of(WORDS[key])}", index=index)
            options[key] = value
        else:
            # Contexts are named in binary thousands: 128k is 131,072 tokens. Of batches nobody says so.
            count = read_count(value, binary=key == "context")
            if count is None or not 1 <= count <= _MOST_TOKENS:
                also = " (128k is 131072)" if key == "context" else ""
                raise _fail(text, f"{key} must be a whole number from 1 to {_MOST_TOKENS}{also}", index=index)
            options[key] = count
    if options.get("batch", 1) * options.get("context", 1) > 10**12:
        raise _fail(text, "batch x context must be at most 10^12 tokens", index=index)
    missing = [option for option in METRICS[name].needed if option not in options]
    if missing:
        raise _fail(text, f"{name} needs {_NEEDS[missing[0]]}, as in {example!r}", index=index)
    return options


def parse_budget(text: str, *, index: int | None = None) -> Budget:
    """Read one budget.

    Raises:
        BudgetSyntax: unknown metric, value outside (0, 1] and [2, ...), unknown or malformed option.
    """
    if len(text) > _LONGEST:
        raise _fail(text[:40] + "...", f"it is longer than {_LONGEST} characters", index=index)
    head, at, rest = text.strip().partition("@")
    name, equals, value = (part.strip() for part in head.partition("="))
    if not equals or name not in METRICS:
        raise _fail(
            text,
            f"write metric=value with one of {', '.join(METRICS)}, as in 'block_params=0.8'",
            index=index,
        )
    if at and not rest:
        raise _fail(text, f"nothing follows '@'; as in {METRICS[name].example!r}", index=index)
    fraction, absolute = _amount(text, value, name, index)
    return Budget(text.strip(), Metric(name, **_options(text, name, rest, index)), fraction, absolute)


def check_timed(budgets: Sequence[Budget], latency: LatencyTable | None) -> None:
    """Raises InvalidInput where a budget on latency has no table, or the table not its batch, context and phase."""
    for budget in budgets:
        metric = budget.metric
        if metric.kind.timed:
            timing_of(latency, metric.batch, metric.context, metric.phase)


def parse_metric(text: str) -> Metric:
    """Read a budget without its value, as in ``kv_bytes_per_token`` or ``memory@batch=8,context=131072``.

    Raises:
        BudgetSyntax: unknown metric, unknown or malformed option.
    """
    name, at, rest = text.strip().partition("@")
    allowed = f"a metric is one of {', '.join(METRICS)}, with the options of a budget"
    if name not in METRICS or len(text) > _LONGEST:
        raise BudgetSyntax.of("metric", text[:100], allowed, f"{text[:100]!r} is none:")
    try:
        return parse_budget(f"{name}=1{at}{rest}").metric
    except BudgetSyntax as error:
        why = error.detail.rpartition(": ")[2]
        raise BudgetSyntax.of("metric", text[:100], allowed, f"{text[:100]!r}: {why};") from None


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
