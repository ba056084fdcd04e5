"""The sensitivity of a profile: what removing a fraction of the ranks loses, component by component and of the whole model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from allocator.base.document import LOOSE, Document
from allocator.plan.model.geometry import Component
from allocator.plan.model.layer import LayerRows


class Removal(Document):
    """One component alone, cut from one rank to a smaller one."""

    layer: int = Field(description="counted from 0")
    component: Component = Field(description="`qk`, `ov` or `mlp`")
    from_rank: int = Field(description="its own: the full one, or around a plan the plan's")
    rank: int = Field(description="the largest that removes the fraction of it")
    loss_nats: float = Field(description="what that loses, nats/token")
    saved: int = Field(description="of the metric, in its unit")
    loss_per_unit: float | None = Field(description="null where the metric does not see the component")


class OutOfReach(Document):
    """A component whose smallest rank is larger than what was asked for."""

    layer: int
    component: Component
    from_rank: int


class WholeModel(Document):
    """The plan that removes the fraction of the whole model's metric at the least predicted loss."""

    budget: str = Field(description="that asks for it", examples=["block_params=995328"])
    unit: str = Field(description="of the metric")
    before: int = Field(description="the metric of the model that is cut")
    after: int = Field(description="of the plan")
    loss_nats: float = Field(description="predicted, nats/token")
    digest: str = Field(description="of the plan; `POST /v1/plans` with the budget stores it")
    ranks: LayerRows = Field(description="[{`layer`, `qk`, `ov`, `mlp`}]")


class Sensitivity(Document):
    """Losses of removing a fraction of the ranks, from the stored curves."""

    profile_key: str = Field(description="of the profile that losses are read from")
    around: str | None = Field(
        description="the plan whose ranks are counted from; null: the dense model's are"
    )
    remove: float = Field(description="the fraction that goes")
    metric: str = Field(description="with its options, as in a budget without its value")
    unit: str = Field(description="of the metric")
    most_sensitive: Annotated[tuple[Removal, ...], LOOSE] = Field(
        description="removals as below, largest loss first"
    )
    hurts_least: Annotated[tuple[Removal, ...], LOOSE] = Field(
        description="least loss first, of components that save something in the metric"
    )
    out_of_reach: Annotated[tuple[OutOfReach, ...], LOOSE] = Field(
        description="[{`layer`, `component`, `from_rank`}]: components whose smallest rank is still too large"
    )
    whole_model: WholeModel | None = Field(description="as below; null where no ranks reach it")


class InterpolationError(Document):
    """How far curves of one kind of component were off at ranks that they were not told: |predicted - measured| / measured."""

    points: int = Field(description="held-out points whose measured loss exceeds what counts as noise")
    median: float | None = Field(description="of their relative errors; null without points")
    p95: float | None = Field(description="what 95 % of them do not exceed; null without points")
    too_small: int = Field(description="held-out points within noise")
