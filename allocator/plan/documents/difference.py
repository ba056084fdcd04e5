"""The difference of two plans: ranks and forms that change, what that does to the loss and to every metric, in words too."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from allocator.base.document import LOOSE, Document, Short
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import Latent

_Number = int | float


class Change(Document):
    """From one value to another."""

    from_: _Number = Field(alias="from")
    to: _Number
    change: _Number

    @classmethod
    def of(cls, before: _Number, after: _Number) -> Self:
        """From one value to another."""
        return cls.model_validate({"from": before, "to": after, "change": after - before})


class RankChange(Document):
    """One component whose rank or form differs, and what that does."""

    layer: int = Field(description="counted from 0")
    component: Component = Field(description="`qk`, `ov` or `mlp`")
    from_: int = Field(alias="from", description="its rank in plan `a`")
    to: int = Field(description="its rank in plan `b`")
    from_bits: Literal[8, 4] | None = Field(
        default=None,
        description="null, like `to_bits`: the checkpoint's own type; both are absent without any, or null over REST",
    )
    to_bits: Literal[8, 4] | None = Field(default=None, description="of its weights afterwards")
    from_latent: Latent | None = Field(
        default=None,
        description="`joint` or `latent`; null: it was of no latent; absent, like `to_latent`, without any, or null over REST",
    )
    to_latent: Latent | None = Field(default=None, description="what it is of afterwards")
    weight_bytes: int | None = Field(
        default=None, description="change of the weights' bytes; absent without bits, or null over REST"
    )
    loss_nats: float | None = Field(
        description="change of the predicted loss, nats/token; null: see `losses_note`"
    )
    costs: dict[Short, int] = Field(description="metric -> change")
    kv_bytes: int | None = Field(description="change of the cache at this batch and context; null without")
    text: str = Field(
        description="the same in words",
        examples=["layer 17 OV 96 -> 64, +0.002 nats, -38 MB KV, -1.05 M parameters"],
    )


class PlanDiff(Document):
    """Differences of plan ``b`` from plan ``a``."""

    a: str = Field(description="the digest of the plan before")
    b: str = Field(description="the digest of the plan after")
    same_weights: bool = Field(description="whether both are for the same weights")
    same_profile: bool = Field(description="whether both were made from the same profile")
    losses_note: str | None = Field(description="why components' losses are null; null where they are told")
    batch: int | None = Field(description="sequences in the cache; null without `context`")
    context: int | None = Field(description="tokens of each; null where nobody asked")
    changes: Annotated[tuple[RankChange, ...], LOOSE] = Field(description="as below, layer by layer")
    predicted_loss_nats: Change = Field(description="{`from`, `to`, `change`}, nats/token")
    costs: dict[Short, Change] = Field(description="metric -> {`from`, `to`, `change`}")
    kv_bytes: int | None = Field(description="change of the cache at this batch and context; null without")
    text: str = Field(
        description="the sum of it in words",
        examples=["12 components change, +0.013 nats, -128 MB KV, -4.2 M parameters"],
    )
