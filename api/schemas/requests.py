"""Bodies of the API for jobs and plans, and what all bodies share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from allocator.plan.ask.choices import ILP
from allocator.stages.request import (
    Allocation,
    Bits,
    Budgets,
    Constraints,
    Key,
    LatencyKey,
    Request,
)

NO_BITS = "none"
"""In a query or an option, in place of weight bits: ranks alone."""


class Body(BaseModel):
    """A body that the API takes: no other fields, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    """A model's settings with examples of whole bodies, for the description; the settings of `Body` stay."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})


class JobRequest(Request):
    """A job to do. What is left out takes the default of the command line."""

    model_config = ConfigDict(extra="forbid") | examples(
        {
            "kind": "compress",
            "model": "local:pylm-llama",
            "budgets": ["block_params=0.8", "kv_bytes_per_token=0.75"],
        },
        {"kind": "compress", "model": "local:pylm-llama", "plan": "alias:prod", "export": ["compact"]},
        {"kind": "profile", "model": "local:pylm-llama", "effort": "fast"},
    )

    def model_post_init(self, _context: Any) -> None:
        # What was sent is stored with its budgets, also where it has none.
        self.__pydantic_fields_set__.add("budgets")


class PlanRequest(Body):
    """A plan to solve at once from a stored profile."""

    model_config = examples(
        {
            "profile_key": "6d4c80" + 58 * "0",
            "budgets": ["block_params=0.7"],
            "constraints": {"pin": ["0-1.mlp=dense"]},
        },
        {
            "profile_key": "6d4c80" + 58 * "0",
            "budgets": [],
            "least": "kv_bytes_per_token",
            "max_loss_nats": 0.05,
        },
    )

    latency_table: LatencyKey = None
    profile_key: Key = Field(description="As listed by `GET /v1/profiles`.")
    budgets: Budgets
    least: Annotated[str, Field(max_length=100)] | None = Field(
        default=None,
        description="Instead of the least loss under the budgets: the least of this metric at `max_loss_nats`.",
        examples=["kv_bytes_per_token"],
    )
    max_loss_nats: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="With `least`: the largest predicted loss, nats/token.", examples=[0.05]
    )
    allocation: Allocation = Field(
        default=ILP,
        description="`ilp`: mixed ranks by the integer program; `uniform`: the largest single ratio that fits.",
    )
    constraints: Constraints | None = Field(
        default=None, description="What ranks the plan may use beyond its budgets."
    )
    bits: Annotated[list[Bits], Field(max_length=2)] | None = Field(
        default=None,
        description="Which bits the plan may use, of those that the profile has measured; default: all of them, `[]`: none.",
    )
    store: bool = Field(
        default=True,
        description="false: only answer, for a look at many budgets; nothing is left behind, and scope `read` is enough.",
    )
