"""Bodies and answers of the API about plans: lists, measurements, differences, explanations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from allocator.plan.model.geometry import Component
from allocator.stages.request import Bits, Reference
from api.schemas.requests import Body, Timestamp, examples


class TransferRequest(Body):
    """A fine-tune of the plan's model, which may perhaps use the plan."""

    model_config = examples(
        {"model": "local:pylm-llama"}, {"model": "local:pylm-llama", "calibration": "text:code.txt"}
    )

    model: Reference = Field(
        description="`local:<name>` or `hf:<owner>/<name>@<40 hexadecimal digits>`.",
        examples=["local:pylm-llama"],
    )
    calibration: Reference | None = Field(
        default=None,
        description="`text:<name>`, the text that the profile was measured on; default: calibration.txt in the model's folder.",
    )
    text_column: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Where that text's records have their text; as of a job."
    )


class Change(BaseModel):
    """From one value to another."""

    from_: float | int = Field(alias="from")
    to: float | int
    change: float | int


class RankChange(BaseModel):
    """One component whose rank differs, and what that does."""

    layer: int
    component: Component
    from_: int = Field(alias="from")
    to: int
    from_bits: Bits | None = Field(default=None, description="null, like to_bits: the checkpoint's own type.")
    to_bits: Bits | None = None
    from_latent: Literal["joint", "latent"] | None = Field(
        default=None, description="null: it was of no latent."
    )
    to_latent: Literal["joint", "latent"] | None = None
    weight_bytes: int | None = Field(
        default=None, description="Change of the weights' bytes; null where no bits are involved."
    )
    loss_nats: float | None = Field(
        description="Change of the predicted loss, nats/token; null: see losses_note."
    )
    costs: dict[str, int] = Field(description="Change of every metric.")
    kv_bytes: int | None = Field(description="Change of the cache at this batch and context; null without.")
    text: str = Field(examples=["layer 17 OV 96 -> 64, +0.002 nats, -38 MB KV, -1.05 M parameters"])


class PlanDiff(BaseModel):
    """Differences of plan `b` from plan `a`."""

    a: str
    b: str
    same_weights: bool
    same_profile: bool
    losses_note: str | None = Field(description="Why components' losses are null; null where they are told.")
    batch: int | None
    context: int | None
    changes: list[RankChange]
    predicted_loss_nats: Change
    costs: dict[str, Change]
    kv_bytes: int | None
    text: str = Field(examples=["12 components change, +0.013 nats, -128 MB KV, -4.2 M parameters"])


class PlanSummary(BaseModel):
    """A stored plan."""

    digest: str
    profile_key: str
    model: str
    weights_sha256: str
    predicted_loss_nats: float | None
    derivation: Literal["refined", "transferred"] | None = Field(
        description="How it came from another plan; null: from a profile alone."
    )
    derived_from: str | None = Field(description="That plan's digest.")
    created_by: str
    created_at: Timestamp
    shared_by: str | None = Field(description="The team that shares it with yours; null: your own.")


class PlanPage(BaseModel):
    """Plans, newest first."""

    items: list[PlanSummary]
    next_cursor: str | None


class Measurement(BaseModel):
    """Figures that one job measured after applying a plan."""

    job_id: str
    measured: dict[str, Any]
    created_at: Timestamp


class MeasurementList(BaseModel):
    """All measurements of a plan, oldest first."""

    items: list[Measurement]
