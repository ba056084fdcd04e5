"""What the API says about plans beside the plans themselves: lists, measurements, explanations, aliases, notes, differences,
lineage.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from allocator.plan.model.geometry import Component
from allocator.stages.request import Bits, Reference
from allocator.store.aliases import NAME_PATTERN
from allocator.store.notes import LONGEST_COMMENT
from api.schemas.requests import Body, JobState, Timestamp, examples

_DIGEST = "9f2c4e" + 58 * "0"
PlanName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="A digest, its first characters (at least 6) or `alias:<name>`.",
        examples=["alias:prod"],
    ),
]


class AliasTarget(Body):
    """Where an alias shall point."""

    model_config = examples({"plan": _DIGEST}, {"plan": "9f2c4e00"})

    plan: PlanName


class RollBack(Body):
    """To what an alias shall go back."""

    model_config = examples({}, {"version": 3})

    version: Annotated[int, Field(ge=1, le=2**62)] | None = Field(
        default=None, description="One of its history; default: what it pointed at before.", examples=[3]
    )


class CommentText(Body):
    """Something to say about a plan."""

    model_config = examples({"text": "Held up on the support transcripts too."})

    text: Annotated[str, Field(min_length=1, max_length=LONGEST_COMMENT)] = Field(
        examples=["Held up on the support transcripts too."]
    )


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


class AliasOut(BaseModel):
    """A name for a plan, which people move."""

    name: str = Field(pattern=NAME_PATTERN, examples=["prod"])
    digest: str = Field(description="The plan it points at.", examples=[_DIGEST])
    version: int = Field(description="Grows with every change; in quotes it is the ETag.", examples=[3])
    changed_by: str
    changed_at: Timestamp


class AliasPage(BaseModel):
    """Aliases, newest name first."""

    items: list[AliasOut]
    next_cursor: str | None


class AliasChange(BaseModel):
    """One change of an alias."""

    version: int
    action: Literal["set", "rollback", "delete"]
    from_digest: str | None = Field(description="null: it did not exist before.")
    to_digest: str | None = Field(description="null: it was deleted.")
    changed_by: str
    changed_at: Timestamp


class AliasHistory(BaseModel):
    """All changes of an alias, newest first; it stays when the alias is deleted."""

    items: list[AliasChange]
    next_cursor: str | None


class LabelOut(BaseModel):
    """A word on a plan."""

    label: str
    created_by: str
    created_at: Timestamp


class CommentOut(BaseModel):
    """What somebody said about a plan."""

    id: int
    text: str
    created_by: str
    created_at: Timestamp


class Notes(BaseModel):
    """What people wrote beside a plan, which itself never changes."""

    plan: str
    aliases: list[AliasOut] = Field(description="The newest 200 that point at it now.")
    labels: list[LabelOut]
    comments: list[CommentOut] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="Of the comments.")


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
    """What changes from plan `a` to plan `b`."""

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


class LineageProfile(BaseModel):
    """The profile that a plan was made from."""

    key: str
    origin: Literal["measured", "imported", "missing"]
    model: str | None
    weights_sha256: str | None
    calibration_sha256: str | None
    provenance: dict[str, Any] | None = Field(description="Of an imported one: who, when, its original key.")


class FormerPlan(BaseModel):
    """The plan from which one came."""

    plan: str
    how: Literal["refined", "transferred"]


class DerivedPlan(FormerPlan):
    """A plan that came from one."""

    model: str


class LineageJob(BaseModel):
    """A job that made or applied a plan."""

    id: str
    kind: str
    state: JobState
    model: str
    created_by: str
    created_at: Timestamp
    finished_at: Timestamp | None


class CheckpointFile(BaseModel):
    """One file of a checkpoint."""

    name: str
    size: int = Field(description="Bytes.")
    sha256: str
    removed_at: Timestamp | None


class Checkpoint(BaseModel):
    """A model that a job wrote."""

    name: str = Field(examples=["compact"])
    files: list[CheckpointFile]


class ApplyingJob(LineageJob):
    """A job that applied a plan, what it wrote and what it measured."""

    checkpoints: list[Checkpoint]
    measured: dict[str, Any] | None


class Lineage(BaseModel):
    """Profile, plan and checkpoints; the newest 100 jobs and derived plans."""

    plan: str
    model: str
    created_by: str
    created_at: Timestamp
    profile: LineageProfile
    derived_from: FormerPlan | None
    derived: list[DerivedPlan]
    made_by: list[LineageJob]
    applied_by: list[ApplyingJob]


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
    """What one job measured after applying a plan."""

    job_id: str
    measured: dict[str, Any]
    created_at: Timestamp


class MeasurementList(BaseModel):
    """All measurements of a plan, oldest first."""

    items: list[Measurement]


class NextStep(BaseModel):
    """A component's next rank, in the same form."""

    rank: int
    change_nats: float = Field(description="Change of the predicted loss, nats/token.")
    worth_nats: float = Field(
        description="What it takes from the budgets at their shadow prices; negative: frees."
    )


class ExplainedBudget(BaseModel):
    """A budget and what more of it would buy."""

    text: str
    unit: str
    binding: bool | None
    left: int
    price_nats: float | None = Field(description="Nats/token saved per further unit; null for uniform ranks.")


class ExplainedComponent(BaseModel):
    """Why a component has its rank."""

    layer: int
    component: str
    rank: int
    bits: int | None = Field(description="Of its weights; null: the checkpoint's own type.")
    qk_form: Literal["latent"] | None = Field(
        default=None, description="`latent`: queries made of one latent, `qk` numbers for each head."
    )
    ov_form: Literal["joint"] | None = Field(
        default=None, description="`joint`: one latent of all value heads."
    )
    full_rank: int
    loss_nats: float
    up: NextStep | None
    down: NextStep | None
    why: str


class Explanation(BaseModel):
    """Why a plan is as it is."""

    plan: str
    budgets: list[ExplainedBudget]
    components: list[ExplainedComponent]
