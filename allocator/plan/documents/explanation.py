"""The explanation of a plan: what the next step of every component would save or cost, against what its budgets are worth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from allocator.base.document import LOOSE, Document
from allocator.plan.model.geometry import Component


class NextStep(Document):
    """A component's next rank, in the same form."""

    rank: int = Field(description="of the step")
    change_nats: float = Field(description="change of the predicted loss, nats/token")
    worth_nats: float = Field(
        description="what the step takes from the budgets at their shadow prices; negative: frees"
    )


class ExplainedBudget(Document):
    """A budget and what more of it would buy."""

    text: str = Field(description="as it was written")
    unit: str = Field(description="of its metric")
    binding: bool | None = Field(
        description="whether more of it would buy loss; null, like the price, as in the plan"
    )
    left: int = Field(description="what the plan leaves of it, in `unit`")
    price_nats: float | None = Field(description="nats/token saved per further unit")


class ExplainedComponent(Document):
    """Why a component has its rank."""

    layer: int = Field(description="counted from 0")
    component: Component = Field(description="`qk`, `ov` or `mlp`")
    rank: int = Field(description="that the plan gives it")
    bits: Literal[8, 4] | None = Field(description="of its weights; null: the checkpoint's own type")
    qk_form: Literal["latent"] | None = Field(
        default=None, description="`latent`: queries made of one latent, `rank` numbers for each head"
    )
    ov_form: Literal["joint"] | None = Field(
        default=None, description="`joint`: one latent of all value heads, of `rank` numbers for each"
    )
    full_rank: int = Field(description="that of the dense model")
    loss_nats: float = Field(description="predicted of this cut alone, nats/token")
    up: NextStep | None = Field(description="as below; null where there is no larger rank in the same form")
    down: NextStep | None = Field(description="as below; null where there is no smaller one")
    why: str = Field(description="the same as a sentence")


class Explanation(Document):
    """Why a plan is as it is."""

    plan: str = Field(description="its digest")
    budgets: Annotated[tuple[ExplainedBudget, ...], LOOSE] = Field(
        description="[{`text`, `unit`, `binding`, `left`, `price_nats`}]: what the plan leaves of each, and nats/token saved"
        " per further unit, null where nothing was proven"
    )
    components: Annotated[tuple[ExplainedComponent, ...], LOOSE] = Field(
        description="as below, layer by layer"
    )
