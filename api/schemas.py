"""What the API takes and gives, as pydantic models: the source of the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from allocator.base.settings import Device
from allocator.jobs.document import timestamp
from allocator.plan.ask.choices import ALLOCATIONS
from allocator.plan.effort import EFFORTS, SOLVERS
from allocator.plan.model.dtypes import WIDTHS
from allocator.plan.model.geometry import Component
from allocator.profiling.windows import (
    LEAST_SAMPLES,
    LEAST_WINDOW_TOKENS,
    MOST_SAMPLES,
    MOST_WINDOW_TOKENS,
)
from allocator.stages.exports import EXPORTS
from allocator.stages.pipeline import BASELINES, MOST_EVALUATIONS, MOST_HEAL_STEPS, SEQUENCES
from allocator.store.states import STATES

Budgets = Annotated[
    list[Annotated[str, Field(max_length=200)]],
    Field(
        max_length=32,
        description="Upper limits, all of which hold at once: `metric=value[@option=value,...]`.",
        examples=[["block_params=0.8", "kv_bytes_per_token=0.75"]],
    ),
]
if TYPE_CHECKING:
    Solver: TypeAlias = str
    Allocation: TypeAlias = str
    Export: TypeAlias = str
    Bits: TypeAlias = int
    Effort: TypeAlias = str
    JobKind: TypeAlias = str
    JobState: TypeAlias = str
    Baselines: TypeAlias = str
else:  # What there is to choose from is said where it is made, once.
    Solver, Allocation, Export = Literal[SOLVERS], Literal[ALLOCATIONS], Literal[tuple(EXPORTS)]
    Bits, Effort = Literal[tuple(WIDTHS)], Literal[tuple(EFFORTS)]
    JobKind, JobState = Literal[tuple(SEQUENCES)], Literal[tuple(map(str, STATES))]
    Baselines = Literal[BASELINES]
WindowTokens = Annotated[int, Field(ge=LEAST_WINDOW_TOKENS, le=MOST_WINDOW_TOKENS)]
_TIME = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000Z"]}
Reference = Annotated[str, Field(max_length=300)]
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
"""Control characters are in no name of ours, and PostgreSQL stores no NUL."""
_Key = Annotated[str, Field(max_length=128, pattern=_PRINTABLE)]


Timestamp = Annotated[datetime, PlainSerializer(timestamp, return_type=str), WithJsonSchema(_TIME)]


class Body(BaseModel):
    """What the API takes: nothing beside its fields, and of their types as they are."""

    model_config = ConfigDict(extra="forbid", strict=True)


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    """Of a whole body, for the description; the settings of `Body` stay."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})


_Texts = Annotated[list[Annotated[str, Field(max_length=100, pattern=_PRINTABLE)]], Field(max_length=1000)]


class Constraints(Body):
    """What ranks a plan may use beyond its budgets; part of the program, never rounded afterwards."""

    align: _Texts | None = Field(
        default=None, description="Ranks are multiples of this, or the full rank.", examples=[["mlp=32"]]
    )
    min_rank: _Texts | None = Field(
        default=None,
        description="No rank below; with a decimal point a share of the full one.",
        examples=[["ov=16"]],
    )
    pin: _Texts | None = Field(
        default=None,
        description="`LAYERS.COMPONENT=RANK`; the rank may be `dense`.",
        examples=[["0-1.mlp=dense"]],
    )
    tie: _Texts | None = Field(
        default=None,
        description="The same rank in all these layers: `COMPONENT` or `COMPONENT:FIRST-LAST`.",
        examples=[["qk"]],
    )

    def given(self) -> dict[str, list[str]]:
        """Kind -> constraints, of those that were given."""
        return self.model_dump(exclude_none=True)


class _Program(Body):
    """What the integer program counts times in."""

    latency_table: Annotated[str, Field(max_length=64)] | None = Field(
        default=None,
        description="For budgets on latency: the key that `POST /v1/latency-tables` answered.",
    )


class JobRequest(_Program):
    """A job to do. What is left out takes the default of the command line."""

    model_config = examples(
        {
            "kind": "compress",
            "model": "local:pylm-llama",
            "budgets": ["block_params=0.8", "kv_bytes_per_token=0.75"],
        },
        {"kind": "compress", "model": "local:pylm-llama", "plan": "alias:prod", "export": ["compact"]},
        {"kind": "profile", "model": "local:pylm-llama", "effort": "fast"},
    )

    kind: JobKind = Field(
        description="How far to go. `transfer`: whether a stored profile, or a plan made from it, holds for this fine-tune.",
        examples=["compress"],
    )
    model: Reference = Field(
        description="`local:<name>` or `hf:<owner>/<name>@<40 hexadecimal digits>`.",
        examples=["local:pylm-llama"],
    )
    budgets: Budgets = Field(default_factory=list)
    calibration: Reference | None = Field(
        default=None, description="`text:<name>`; default: calibration.txt in the model's folder."
    )
    evaluation: Reference | None = Field(
        default=None, description="`text:<name>`; default: evaluation.txt in the model's folder."
    )
    text_column: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Where records of both texts, `.jsonl` and `.parquet`, have their text or conversation. Default: `text`,"
        " else `messages`.",
        examples=["content"],
    )
    solver: Solver | None = None
    allocation: Allocation | None = None
    constraints: Constraints | None = None
    export: Annotated[list[Export], Field(min_length=1, max_length=len(EXPORTS))] | None = None
    effort: Effort | None = None
    samples: Annotated[int, Field(ge=LEAST_SAMPLES, le=MOST_SAMPLES)] | None = Field(
        default=None,
        description="Calibration windows that moments are taken over, or as many as the text has. Default: 49,152 tokens of"
        " them, for `device` `cuda` at least 128.",
        examples=[128],
    )
    sequence_length: WindowTokens | None = Field(
        default=None,
        description="Tokens of a calibration window, for moments and curves; at most the model's context. Default: 256, for"
        " `device` `cuda` 2048, or the context where that is shorter. Another length is another profile.",
        examples=[2048],
    )
    evaluation_length: WindowTokens | None = Field(
        default=None,
        description="Tokens of a window of the evaluation text; default as of `sequence_length`. For `compress` only; no"
        " part of a profile.",
        examples=[2048],
    )
    device: Device | None = Field(
        default=None,
        description="`cuda`: stages that run a model wait for a GPU worker. No part of what units are named by, but the usual"
        " windows are longer.",
    )
    around: _Key | None = Field(
        default=None,
        description="A plan (as `plan`): measure curves around that plan instead of around the dense model.",
    )
    bits: Annotated[list[Bits], Field(min_length=1, max_length=2)] | None = Field(
        default=None,
        description="Also measure quantized cuts, and let the plan choose the bits of each component's weights beside its rank."
        " Default: none. Needs a budget on memory to plan; not with `refine`, `heal` or `around`.",
        examples=[[8, 4]],
    )
    profile: _Key | None = Field(
        default=None, description="For `transfer`: the key of the profile to compare with."
    )
    plan: _Key | None = Field(
        default=None,
        description="A digest, its beginning or `alias:<name>`. `compress` applies this plan, which brings its own budgets and"
        " solver; `transfer` asks about it, and makes one for the fine-tune if it holds.",
        examples=["alias:prod"],
    )
    refine: Annotated[int, Field(ge=0, le=MOST_EVALUATIONS)] | None = Field(
        default=None,
        description="Evaluations that refinement may spend where losses do not add up; default 64 to compress, fewer for models"
        " of more than 8 layers, 0 to plan.",
    )
    baselines: Baselines | None = Field(
        default=None,
        description="What the plan is measured beside: every uniform plan (default), that of a single ratio by both solvers, or"
        " none. For `compress` only.",
    )
    heal: Annotated[int, Field(ge=0, le=MOST_HEAL_STEPS)] | None = Field(
        default=None,
        description="Steps of distillation from the dense model after the closed form; default 0: none. For `compress` only.",
        examples=[60],
    )


class PlanRequest(_Program):
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

    profile_key: _Key = Field(description="As listed by `GET /v1/profiles`.")
    budgets: Budgets
    least: Annotated[str, Field(max_length=100)] | None = Field(
        default=None,
        description="Instead of the least loss under the budgets: the least of this metric at `max_loss_nats`.",
        examples=["kv_bytes_per_token"],
    )
    max_loss_nats: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="With `least`: the largest predicted loss, nats/token.", examples=[0.05]
    )
    allocation: Allocation = "ilp"
    constraints: Constraints | None = None
    bits: Annotated[list[Bits], Field(max_length=2)] | None = Field(
        default=None,
        description="Which bits the plan may use, of those that the profile has measured; default: all of them, `[]`: none.",
    )
    store: bool = Field(
        default=True,
        description="false: only answer, for a look at many budgets; nothing is left behind, and scope `read` is enough.",
    )


class Progress(BaseModel):
    """How far the present stage has come."""

    done: int
    total: int
    unit: str = Field(examples=["windows"])


class JobOut(BaseModel):
    """A job."""

    id: str
    kind: str
    state: JobState
    stage: str | None = Field(description="The stage entered last.")
    stages: list[str] = Field(description="All stages of this kind of job, in order.")
    progress: Progress | None
    queue_reason: str | None = Field(description="Why nothing is being done at the moment.")
    model: str
    budgets: list[str]
    request: dict[str, Any]
    weights_sha256: str | None
    profile_key: str | None
    plan: str | None = Field(description="The chosen plan's digest.")
    error: dict[str, Any] | None = Field(description="Why it failed: type, title, detail, errors[].")
    created_by: str
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    retry_of: str | None = Field(description="The job that this one does again.")
    links: dict[str, str]


class EventOut(BaseModel):
    """Something that happened to a job."""

    seq: int = Field(description="Position in the job's history: 1, 2, 3, ... without gaps.")
    type: str = Field(examples=["stage.started"])
    message: str
    data: dict[str, Any]
    created_at: Timestamp


class EventList(BaseModel):
    """A stretch of a job's history."""

    items: list[EventOut]


class ArtifactOut(BaseModel):
    """A file a job wrote."""

    name: str
    size: int = Field(description="Bytes.")
    sha256: str
    created_at: Timestamp
    removed_at: Timestamp | None = Field(description="null: it is still there.")
    href: str


class ArtifactList(BaseModel):
    """All files a job wrote, by name."""

    items: list[ArtifactOut]


class JobPage(BaseModel):
    """Jobs, newest first."""

    items: list[JobOut]
    next_cursor: str | None = Field(description="Hand it back as `cursor`; null on the last page.")


class ProfileSummary(BaseModel):
    """A stored profile."""

    key: str
    model: str
    weights_sha256: str
    calibration_sha256: str
    created_at: Timestamp
    shared_by: str | None = Field(description="The team that shares it with yours; null: your own.")


class ProfilePage(BaseModel):
    """Profiles, newest first."""

    items: list[ProfileSummary]
    next_cursor: str | None


class RemovalOut(BaseModel):
    """One component alone, cut from one rank to a smaller one."""

    layer: int
    component: Component
    from_rank: int
    rank: int
    loss_nats: float = Field(description="nats/token.")
    saved: int = Field(description="In the metric's unit.")
    loss_per_unit: float | None = Field(description="null where the metric does not see the component.")


class OutOfReach(BaseModel):
    """A component whose smallest rank is larger than what was asked for."""

    layer: int
    component: Component
    from_rank: int


class LayerRanks(BaseModel):
    """The ranks of one layer."""

    layer: int
    qk: int
    ov: int
    mlp: int


class WholeModel(BaseModel):
    """The plan that removes the fraction of the whole model's metric at the least predicted loss."""

    budget: str = Field(examples=["block_params=995328"])
    unit: str
    before: int
    after: int
    loss_nats: float
    digest: str = Field(description="Of the plan; `POST /v1/plans` with the budget stores it.")
    ranks: list[LayerRanks]


class Sensitivity(BaseModel):
    """What removing a fraction of the ranks costs, answered from the stored curves."""

    profile_key: str
    around: str | None = Field(description="The plan whose ranks are counted from; null: the dense model.")
    remove: float
    metric: str
    unit: str
    most_sensitive: list[RemovalOut] = Field(description="Largest loss first.")
    hurts_least: list[RemovalOut] = Field(
        description="Least loss first, of components that save something in the metric."
    )
    out_of_reach: list[OutOfReach]
    whole_model: WholeModel | None = Field(description="null where no ranks reach it.")


class ImportedProfile(BaseModel):
    """Where an imported profile is."""

    key: str = Field(description="Of its own: a job never takes it for one that was measured here.")
    original_key: str
    sha256: str = Field(description="Of the file's content.")
    stored: bool = Field(description="false: it was there already.")


class Problem(BaseModel):
    """RFC 9457. More members by type, such as `achievable` of an infeasible budget."""

    type: str = Field(examples=["urn:rankalloc:problem:budget_infeasible"])
    code: str = Field(description="The last part of `type`.", examples=["budget_infeasible"])
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] = Field(description="{field, found, allowed} of every wrong field.")
    request_id: str
