"""Bodies and answers of the API about plans: lists and measurements."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from allocator.base.document import Timestamp
from allocator.stages.request import Reference
from api.schemas.requests import Body, examples


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
