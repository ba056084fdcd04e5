"""The question of the workshop's form: the one reader of the form, the one writer of its address, request and commands."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import Budget, budget_text, parse_budget, parse_metric
from allocator.plan.ask.choices import ILP
from allocator.plan.ask.constraints import KINDS
from allocator.plan.ask.least import LOSS, Least
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.flops import FlopsPerToken
from allocator.plan.metrics.kind import Options
from allocator.plan.metrics.params import BlockParams
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.dtypes import WIDTHS
from api.pages import forms
from api.schemas.requests import NO_BITS, PlanRequest
from api.web.addresses import address
from api.web.problems import invalid_fields

_USUAL = BlockParams.name

SLIDERS = {
    name: kind.title
    for name, kind in sorted(METRICS.items(), key=lambda item: item[0] != _USUAL)
    if not kind.timed
}
"""Metric -> its title, block parameters first. Each has one slider; latency, which needs a table of times, has none."""
NONE = "none"
"""The value that the form sends for a group of boxes, so that an empty group differs from one that is left out."""
_DEFAULTS = {"batch": "8", "context": "4096", "phase": Options.phase, "weights": "", "cache": ""}
_CONTEXTS = {FlopsPerToken.name: str(Options.context)}
_SHARE = "0.8"
_BITS = {str(width): width for width in WIDTHS}


@dataclass(frozen=True)
class State:
    """A question to a profile, in the words of the form."""

    profile: str = ""
    use: tuple[str, ...] = (_USUAL,)
    """Metrics whose slider is a budget."""
    values: dict[str, str] = field(default_factory=dict)
    """Metric with a slider -> its limit, as in a budget."""
    options: dict[str, str] = field(default_factory=dict)
    """``memory_batch`` -> 8, ...; empty where the budget does not say."""
    lines: tuple[str, ...] = ()
    """Budgets that no slider shows, whole."""
    constraints: dict[str, str] = field(default_factory=dict)
    """Kind -> constraints with spaces between."""
    bits: tuple[str, ...] | None = None
    """Weight bits the plan may use; None: all that the profile has measured."""
    allocation: str = ILP
    least: str = ""
    """A metric, as in a budget without its value, that is to be as small as it can; empty: the loss is."""
    max_loss: str = ""
    """With ``least``: the largest predicted loss, nats/token."""
    times: str = ""
    """Digest of the stored plan whose latency table counts budgets on latency; empty: there are none."""
    metric: str = _USUAL
    """Whose frontier is drawn."""

    @classmethod
    def of(cls, fields: Mapping[str, Sequence[str]]) -> State:
        """Read from a query or a form: field -> its values. What is missing takes its default."""

        def first(name: str) -> str:
            return next(iter(fields.get(name, ())), "").strip()

        ticked, lines = fields.get("use", ()), tuple(filter(None, fields.get("budget", ())))
        use = tuple(metric for metric in SLIDERS if metric in ticked)
        # A metric without a slider stays in the question, and is refused there if there is no such metric.
        others = [f"{name}={first(name)}" for name in ticked if name not in SLIDERS and name != NONE]
        if not ticked and not lines and not first("least"):
            use = (_USUAL,)
        return cls(
            profile=first("profile"),
            use=use,
            values={metric: first(metric) or _SHARE for metric in SLIDERS},
            options={
                f"{metric}_{option}": first(f"{metric}_{option}") or _default(metric, option)
                for metric in SLIDERS
                for option in METRICS[metric].options
            },
            lines=(*lines, *others),
            constraints={kind: " ".join(fields.get(kind, ())) for kind in KINDS},
            bits=tuple(b for b in fields["bits"] if b != NONE) if fields.get("bits") else None,
            allocation=first("allocation") or ILP,
            least=first("least"),
            max_loss=first("max_loss"),
            times=first("times"),
            metric=first("metric") if first("metric") in SLIDERS else next(iter(use), _USUAL),
        )

    @classmethod
    def of_plan(cls, plan: Plan) -> State:
        """The question that a plan answers: its budgets with all their options, constraints, bits and allocation.

        What a plan has of its least metric is the first of its budgets, and none that was asked.
        """
        fields: dict[str, list[str]] = {"profile": [plan.profile_key], "use": [NONE]}
        least = Least.of(plan.objective)
        if least is not None:
            fields |= {"least": [least.metric], "max_loss": [repr(least.max_loss_nats)]}
        rows = plan.budgets if least is None else plan.budgets[1:]
        for budget in (parse_budget(row.text) for row in rows):
            name = budget.metric.name
            if name in SLIDERS and name not in fields:
                fields["use"].append(name)
                fields[name] = [budget.value]
                fields |= {
                    f"{name}_{o}": [str(getattr(budget.metric, o) or "")] for o in METRICS[name].options
                }
            else:
                fields.setdefault("budget", []).append(budget.text)
        fields |= {kind: plan.constraints.written.get(kind, []) for kind in KINDS}
        fields["bits"] = [NONE, *map(str, plan.bits)]
        fields["allocation"] = [plan.allocation]
        fields["times"] = ["" if plan.latency_table is None else plan.digest]
        return cls.of(fields)

    def beside(self, profile: Profile) -> State:
        """The same question in its shortest form: of a profile without bits, none and all are one."""
        return self if profile.bits or self.bits else replace(self, bits=None)

    def label(self, metric: str) -> str:
        """A slider's metric with its options, as in a budget without its value."""
        options = [(option, self.options[f"{metric}_{option}"]) for option in METRICS[metric].options]
        text = ",".join(f"{option}={value}" for option, value in options if value)
        return f"{metric}@{text}" if text else metric

    def budgets(self) -> list[str]:
        """All of them, as the API takes them."""
        return [*(budget_text(self.label(metric), self.values[metric]) for metric in self.use), *self.lines]

    def constraint_lists(self) -> dict[str, list[str]]:
        """Constraints as the API takes them."""
        split = {kind: forms.words(text) for kind, text in self.constraints.items()}
        return {kind: texts for kind, texts in split.items() if texts}

    def request(self, *, store: bool) -> PlanRequest:
        """The question as the API takes it. Raises InvalidInput, naming the field."""
        if bool(self.least) != bool(self.max_loss):
            why = "how small a metric can get is asked at a predicted loss; fill in"
            field = "max_loss" if self.least else "least"
            raise InvalidInput.of(field, "nothing", "both fields, or neither", why)
        return _checked(self._body() | {"store": store})

    def frontier(self) -> tuple[str, list[str], Budget | None]:
        """The frontier's metric, the budgets on anything else, and the one on the metric itself. Raises BudgetSyntax."""
        label = parse_metric(self.label(self.metric)).label
        budgets = [parse_budget(text) for text in self.budgets()]
        others = [budget.text for budget in budgets if budget.metric.label != label]
        return label, others, next((budget for budget in budgets if budget.metric.label == label), None)

    def address(self) -> str:
        """The page of this state, to be kept or sent on."""
        return address(f"/workshop{self.query()}")

    def query(self) -> str:
        """The query that a browser would send of the form, without fields that have their default."""
        options = [
            (f"{metric}_{option}", self.options[f"{metric}_{option}"])
            for metric in self.use
            for option in METRICS[metric].options
        ]
        pairs = [
            ("profile", self.profile),
            *(("use", metric) for metric in self.use or (() if self.lines else (NONE,))),
            *((metric, self.values[metric]) for metric in self.use),
            *((name, value) for name, value in options if value),
            *(("budget", text) for text in self.lines),
            *((kind, " ".join(texts)) for kind, texts in self.constraint_lists().items()),
            *(("bits", width) for width in (() if self.bits is None else self.bits or (NONE,))),
            *([("allocation", self.allocation)] if self.allocation != ILP else []),
            *([("least", self.least)] if self.least else []),
            *([("max_loss", self.max_loss)] if self.max_loss else []),
            *([("times", self.times)] if self.times else []),
            *([("metric", self.metric)] if self.metric not in self.use[:1] else []),
        ]
        return f"?{urlencode(pairs)}"

    def raised(self, label: str, limit: float, minimum: float) -> State:
        """This state with the budget on ``label`` raised from ``limit`` to ``minimum``: where it was a share, to the next
        hundredth; or with the stated loss raised to the next number of four digits.
        """
        if label == LOSS:
            return replace(self, max_loss=_four_digits(minimum))
        values, lines = dict(self.values), []
        for metric in self.use:
            budget = parse_budget(budget_text(self.label(metric), values[metric]))
            if budget.metric.label == label:
                values[metric] = _needed(budget, int(limit), int(minimum))
        for budget in map(parse_budget, self.lines):
            mine = budget.metric.label == label
            lines.append(
                budget_text(label, _needed(budget, int(limit), int(minimum))) if mine else budget.text
            )
        return replace(self, values=values, lines=tuple(lines))

    def commands(self, base: str, table: str | None) -> dict[str, str]:
        """The same plan from a shell: over REST, and by the command line where that knows the allocation.

        Args:
            base: the service's own address, with a slash at its end.
            table: key of the latency table that budgets on latency are counted in.
        """
        body = self._body() | ({"latency_table": table} if table else {})
        json_body = ["-H", "content-type: application/json", "-d", json.dumps(body)]
        commands = {"rest": shlex.join(["curl", "-s", f"{base}v1/plans", *json_body])}
        if self.allocation != ILP:
            return commands
        words = ["rankalloc", "plan", self.profile]
        words += [word for text in self.budgets() for word in ("--budget", text)]
        for kind, texts in self.constraint_lists().items():
            words += [word for text in texts for word in (f"--{kind.replace('_', '-')}", text)]
        if self.bits is not None:
            words += ["--bits", ",".join(self.bits) or NO_BITS]
        if self.least:
            words += ["--least", self.least]
        if self.max_loss:
            words += ["--max-loss", self.max_loss]
        if table:
            words += ["--latency-table", f"latency-{table[:12]}.json"]
        return {"cli": shlex.join(words), **commands}

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"profile_key": self.profile, "budgets": self.budgets()}
        if constraints := self.constraint_lists():
            body["constraints"] = constraints
        if self.bits is not None:
            body["bits"] = [_BITS.get(width, width) for width in self.bits]
        if self.least:
            body["least"] = self.least
        if self.max_loss:
            body["max_loss_nats"] = _number(self.max_loss)
        return body if self.allocation == ILP else body | {"allocation": self.allocation}


def _default(metric: str, option: str) -> str:
    return _CONTEXTS.get(metric, _DEFAULTS["context"]) if option == "context" else _DEFAULTS[option]


def _number(text: str) -> float | str:
    """The number, or the text as it stands where it is none, to be refused."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _four_digits(loss_nats: float) -> str:
    """The loss or a little more."""
    if loss_nats <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(loss_nats)) - 3)
    return f"{math.ceil(loss_nats / step * (1 + 1e-12)) * step:.4g}"


def _checked(body: dict[str, Any]) -> PlanRequest:
    try:
        return PlanRequest.model_validate(body)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from None


def _needed(budget: Budget, limit: int, minimum: int) -> str:
    """The value that turns ``limit`` into ``minimum`` or a little more."""
    if budget.fraction is None or limit == 0:
        return str(max(minimum, 2))
    hundredths = -(-budget.fraction * 100 * minimum // limit)
    return f"{min(hundredths, 100) / 100:g}"
