"""The plan (``rankalloc.plan/1``): ranks of every layer and what led to them, immutable, named by its content."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from allocator.base.digests import digest
from allocator.base.document import LOOSE, Document, Nats, Short
from allocator.plan.documents.profile import BitsOf, Model
from allocator.plan.model.geometry import Component
from allocator.plan.model.latency import LatencyTable
from allocator.plan.model.layer import PlannedRows
from allocator.plan.model.precision import LATENTS
from allocator.plan.model.ranks import Ranks

PLAN_SCHEMA: Literal["rankalloc.plan/1"] = "rankalloc.plan/1"
_Number = int | float
_Texts = Annotated[tuple[str, ...], LOOSE]
Costs = dict[Short, int]
"""Metric -> amount in its unit, of a whole model."""


class PlanConstraints(Document):
    """What ranks might be used beyond budgets."""

    steps: dict[Component, int]
    align: _Texts = ()
    min_rank: _Texts = ()
    pin: _Texts = ()
    tie: _Texts = ()
    target: _Texts = ()

    @property
    def written(self) -> dict[str, list[str]]:
        """Kind -> constraints as people write them, of the kinds that were given."""
        kinds = (name for name in type(self).model_fields if name != "steps")
        return {kind: list(texts) for kind in kinds if (texts := getattr(self, kind))}


class BudgetLimit(Document):
    """A limit on a metric."""

    metric: str = Field(description="with its options, as in a budget without its value")
    limit: int = Field(description="in `unit`")
    unit: str = Field(description="of the metric")
    text: str = Field(description="as it was written")


class PlanBudget(BudgetLimit):
    """A limit, and what the plan uses of it."""

    understood: str | None = Field(default=None, description="what it was taken for; absent in older plans")
    used: int = Field(description="of the limit, in `unit`")
    binding: bool | None = Field(
        description="whether more of it would buy loss; null, like the prices, where nothing was proven"
    )
    shadow_price: float | None = Field(description="nats saved per further unit")
    shadow_price_text: str | None = Field(
        default=None, description="the same per an amount that people use; absent in older plans"
    )


class Predicted(Document):
    """What the profile's curves say."""

    loss_nats: Nats


class Certificate(Document):
    """What is proved about a plan."""

    status: Short = Field(description="`optimal`, or `feasible` where the time ran out first")
    gap: float = Field(description="relative")
    bound: _Number = Field(description="no plan is below it")
    independent_bound: _Number = Field(description="ours, without a solver")
    dual_bound: _Number | None = Field(default=None, description="of it, the Lagrangian relaxation's")
    unit: str = Field(default="nats/token", description="of the bounds")
    proof: Short | None = Field(default=None, description="`dual`, `enumeration`, `solver` or `none`")
    warnings: _Texts = Field(default=(), description="contradictions in a solver's answer")
    solver: str = Field(description="who is asked where our own bounds leave something open")
    most_states: int | None = Field(default=None, description="how much is enumerated before")
    time_s: float = Field(description="seconds of solving")


class Baseline(Document):
    """Uniform ranks under the same budgets."""

    ranks: PlannedRows
    costs: Costs
    predicted_loss_nats: Nats

    @cached_property
    def chosen(self) -> Ranks:
        """Its ranks and forms."""
        return Ranks.from_layers(self.ranks)


class RefinementStep(Document):
    """What a change of the ranks promised, and gave."""

    kind: Short
    promised_nats: float
    from_nats: float
    to_nats: float
    taken: bool


class Delivered(Document):
    """Measured losses with error feedback."""

    start: float
    refined: float


class Start(Document):
    """The program's own plan, from which ranks were refined."""

    digest: str
    ranks: PlannedRows
    predicted: Predicted
    certificate: Certificate | None


class RefinementRecord(Document):
    """What was measured around the program's plan."""

    evaluations: _Number
    additivity_error: float
    predicted_nats: float
    start_nats: float
    final_nats: float
    stopped: str
    steps: Annotated[tuple[RefinementStep, ...], LOOSE]
    delivered_nats: Delivered | None = None


class Refinement(RefinementRecord):
    """How ranks were found by measurement around the program's plan."""

    start: Start


class NamedModel(Document):
    """A model without its shape."""

    reference: str
    weights_sha256: str


class Transfer(Document):
    """From which plan a fine-tune's comes."""

    plan: str
    model: NamedModel = Field(description="the model that the plan was made for")
    median_factor: float


class Plan(Document):
    """The whole document. Early ones lack some of its fields."""

    schema_: Literal["rankalloc.plan/1"] = Field(alias="schema")
    model: Model = Field(description="`reference`, `weights_sha256`, `geometry`, as in the profile")
    solver: Short = Field(description="the profile's")
    objective: str = Field(description="what was minimised")
    allocation: Short = Field(description="`ilp` or `uniform`")
    constraints: PlanConstraints = Field(
        description="`steps` {component: its ranks are multiples of it}, and the [constraints](constraints.md) by kind, as they"
        " were written"
    )
    bits: BitsOf = Field(default=(), description="those that the program could give; absent without")
    latent: bool = Field(
        default=False, description="true where queries could be of one latent; absent elsewhere"
    )
    joint: bool = Field(
        default=False, description="true where values could be of one latent; absent elsewhere"
    )
    budgets: Annotated[tuple[PlanBudget, ...], LOOSE] = Field(description="as below")
    ranks: PlannedRows = Field(
        description='[{`layer`, `qk`, `ov`, `mlp`}]; with `bits` {component: 8 or 4} where there are some, `ov_form`: "joint"'
        ' where OV is one latent of all heads, of `ov` numbers for each, `qk_form`: "latent" where queries are, of `qk`'
        " numbers for each"
    )
    costs: Costs = Field(
        description="`params`, `block_params`, `kv_bytes_per_token`, `flops_per_token` of these ranks"
    )
    dense: Costs = Field(description="the same of the dense model")
    predicted: Predicted = Field(description="`loss_nats`: nats/token by the profile's curves")
    measured: None = Field(description="null: measurements are rows of their own")
    certificate: Certificate | None = Field(
        description="as below; null for `allocation: uniform`, and for ranks that were refined or transferred"
    )
    baseline: dict[Short, Baseline] = Field(
        description="`uniform`, `uniform_kind`, `uniform_bits` under the same budgets, those that there are: `ranks`, `costs`,"
        " `predicted_loss_nats`"
    )
    profile_key: str = Field(description="of the profile that it was made from")
    created_by: str = Field(description="who made it")
    latency_table: LatencyTable | None = Field(
        default=None,
        description="where a budget is on [time](../how-to/latency.md): the timings used, under the whole table's `digest`",
    )
    refinement: Refinement | None = Field(
        default=None,
        description="of ranks that measurement found: as in the report, with the program's plan as `start` {`digest`, `ranks`,"
        " `predicted`, `certificate`}",
    )
    transfer: Transfer | None = Field(
        default=None,
        description="of a plan for a fine-tune: the former `plan`, its `model`, `median_factor` of the probed losses",
    )
    digest: str = Field(
        description="sha256 of the canonical JSON of what was asked, of which model, on which profile, and the ranks"
    )
    shared_by: str | None = Field(
        default=None, description="in answers only, of a plan that another team shares: that team"
    )

    @cached_property
    def chosen(self) -> Ranks:
        """Its ranks and forms."""
        return Ranks.from_layers(self.ranks)

    @property
    def budget_texts(self) -> list[str]:
        """Its budgets, as people wrote them."""
        return [budget.text for budget in self.budgets]

    @property
    def own_digest(self) -> str:
        """The name of its content: what was asked, of which model, on which profile, and the ranks; not when, by whom or how
        fast.
        """
        content: dict[str, Any] = {
            "schema": self.schema_,
            "weights_sha256": self.model.weights_sha256,
            "geometry": self.model.document["geometry"],
            "solver": self.solver,
            "objective": self.objective,
            "allocation": self.allocation,
            "constraints": self.constraints.document,
            "budgets": sorted(
                ({"metric": budget.metric, "limit": budget.limit} for budget in self.budgets),
                key=lambda budget: str(budget["metric"]),
            ),
            "ranks": [row.document for row in self.ranks],
            "profile_key": self.profile_key,
            **{form: True for form in LATENTS if getattr(self, form)},
        }
        if self.bits:
            content["bits"] = list(self.bits)
        if self.latency_table is not None:
            content["latency_table"] = self.latency_table.digest
        return digest(content)

    def named(self) -> Self:
        """This plan under the digest of its content."""
        return self.model_copy(update={"digest": self.own_digest})
