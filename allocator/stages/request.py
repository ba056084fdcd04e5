"""What a job is asked to do: the JSON that its row keeps and that is shown, the body of ``POST /v1/jobs``, and what commands
build and stages read. What goes with what is in `allocator.stages.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from allocator.base.settings import Device
from allocator.methods.registry import DEFAULT_METHOD, METHODS
from allocator.plan.ask.choices import ALLOCATIONS
from allocator.plan.baselines import UNIFORM_RATIO
from allocator.plan.effort import EFFORTS, GRADIENT, STANDARD
from allocator.plan.model.dtypes import WIDTHS
from allocator.plan.targets.registry import TARGETS
from allocator.profiling.windows import (
    LEAST_SAMPLES,
    LEAST_WINDOW_TOKENS,
    MOST_SAMPLES,
    MOST_WINDOW_TOKENS,
)
from allocator.stages.exports import EXPORTS
from allocator.stages.kinds import ALLOCATE, APPLY, EVALUATE, SEQUENCES

EVERY_BASELINE, ONE_BASELINE, NO_BASELINE = BASELINES = ("all", UNIFORM_RATIO, "none")
"""What a plan's evaluation is beside: every uniform plan, the one of a single ratio (by both solvers), or nothing."""

DEFAULT_EVALUATIONS = 64
"""``refine`` of a compression that names none, for models of up to ``_FEW_LAYERS`` layers; of deeper ones fewer."""
_FEW_LAYERS = 8

MOST_EVALUATIONS = 10_000
"""Largest ``refine``."""

MOST_HEAL_STEPS = 100_000
"""Largest ``heal``; far more than ever helped."""

if TYPE_CHECKING:
    Solver: TypeAlias = str
    Allocation: TypeAlias = str
    Export: TypeAlias = str
    Bits: TypeAlias = int
    Effort: TypeAlias = str
    JobKind: TypeAlias = str
    Baselines: TypeAlias = str
else:  # What there is to choose from is said where it is made, once.
    Solver, Allocation, Export = Literal[tuple(METHODS)], Literal[ALLOCATIONS], Literal[tuple(EXPORTS)]
    Bits, Effort = Literal[tuple(WIDTHS)], Literal[tuple(EFFORTS)]
    JobKind, Baselines = Literal[tuple(SEQUENCES)], Literal[BASELINES]

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
"""Control characters are in no name of ours, and PostgreSQL stores no NUL."""
Reference = Annotated[str, Field(max_length=300)]
Key = Annotated[str, Field(max_length=128, pattern=PRINTABLE)]
Budgets = Annotated[
    list[Annotated[str, Field(max_length=200)]],
    Field(
        max_length=32,
        description="Upper limits, all of which hold at once: `metric=value[@option=value,...]`.",
        examples=[["block_params=0.8", "kv_bytes_per_token=0.75"]],
    ),
]
LatencyKey = Annotated[
    Annotated[str, Field(max_length=64)] | None,
    Field(description="For budgets on latency: the key that `POST /v1/latency-tables` answered."),
]
_WindowTokens = Annotated[int, Field(ge=LEAST_WINDOW_TOKENS, le=MOST_WINDOW_TOKENS)]
_Texts = Annotated[list[Annotated[str, Field(max_length=100, pattern=PRINTABLE)]], Field(max_length=1000)]


def _optional(description: str, *examples: Any, max_length: int | None = None) -> Any:
    """A field that may be left out."""
    shown = list(examples) or None
    return Field(default=None, description=description, examples=shown, max_length=max_length)


class Constraints(BaseModel):
    """What ranks a plan may use beyond its budgets; part of the program, never rounded afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    align: _Texts | None = _optional("Ranks are multiples of this, or the full rank.", ["mlp=32"])
    min_rank: _Texts | None = _optional(
        "No rank below; with a decimal point a share of the full one.", ["ov=16"]
    )
    pin: _Texts | None = _optional("`LAYERS.COMPONENT=RANK`; the rank may be `dense`.", ["0-1.mlp=dense"])
    tie: _Texts | None = _optional(
        "The same rank in all these layers: `COMPONENT` or `COMPONENT:FIRST-LAST`.", ["qk"]
    )
    target: _Texts | None = _optional(f"What will serve it: {', '.join(TARGETS)}.", max_length=1)

    def by_kind(self) -> dict[str, list[str]]:
        """Kind -> constraints, of those that were given."""
        return self.model_dump(exclude_none=True)


class Request(BaseModel):
    """A job's request. What a former version stored beside these fields, and ``sources``, stays beside them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    latency_table: LatencyKey = None
    kind: JobKind = Field(
        description="How far to go. `transfer`: whether a stored profile, or a plan made from it, holds for this fine-tune.",
        examples=["compress"],
    )
    model: Reference = Field(
        description="`local:<name>` or `hf:<owner>/<name>@<40 hexadecimal digits>`.",
        examples=["local:pylm-llama"],
    )
    budgets: Budgets = Field(default_factory=list)
    calibration: Reference | None = _optional(
        "`text:<name>`; default: calibration.txt in the model's folder."
    )
    evaluation: Reference | None = _optional("`text:<name>`; default: evaluation.txt in the model's folder.")
    text_column: Annotated[str, Field(min_length=1, max_length=200)] | None = _optional(
        "Where records of both texts, `.jsonl` and `.parquet`, have their text or conversation. Default: `text`, else"
        " `messages`.",
        "content",
    )
    solver: Solver | None = _optional(f"The method that solves layers; default `{DEFAULT_METHOD}`.")
    allocation: Allocation | None = _optional(
        "`ilp` (default): mixed ranks by the integer program; `uniform`: the largest single ratio that fits."
    )
    constraints: Constraints | None = _optional("What ranks the plan may use beyond its budgets.")
    export: Annotated[list[Export], Field(min_length=1, max_length=len(EXPORTS))] | None = _optional(
        "Checkpoints to write; default `compact` and `padded`, or what the target loads."
    )
    effort: Effort | None = _optional(
        "How a new profile is made; default `gradient`, with `bits` or `around` `standard`."
    )
    samples: Annotated[int, Field(ge=LEAST_SAMPLES, le=MOST_SAMPLES)] | None = _optional(
        "Calibration windows that moments are taken over, or as many as the text has. Default: 49,152 tokens of them, for"
        " `device` `cuda` at least 128.",
        128,
    )
    sequence_length: _WindowTokens | None = _optional(
        "Tokens of a calibration window, for moments and curves; at most the model's context. Default: 256, for `device`"
        " `cuda` 2048, or the context where that is shorter. Another length is another profile.",
        2048,
    )
    evaluation_length: _WindowTokens | None = _optional(
        "Tokens of a window of the evaluation text; default as of `sequence_length`. For `compress` only; no part of a"
        " profile.",
        2048,
    )
    device: Device | None = _optional(
        "`cuda`: stages that run a model wait for a GPU worker. No part of what units are named by, but the usual windows"
        " are longer."
    )
    around: Key | None = _optional(
        "A plan (as `plan`): measure curves around that plan instead of around the dense model."
    )
    bits: Annotated[list[Bits], Field(min_length=1, max_length=2)] | None = _optional(
        "Also measure quantized cuts, and let the plan choose the bits of each component's weights beside its rank."
        " Default: none. Needs a budget on memory to plan; not with `refine`, `heal` or `around`.",
        [8, 4],
    )
    profile: Key | None = _optional("For `transfer`: the key of the profile to compare with.")
    plan: Key | None = _optional(
        "A digest, its beginning or `alias:<name>`. `compress` applies this plan, which brings its own budgets and solver;"
        " `transfer` asks about it, and makes one for the fine-tune if it holds.",
        "alias:prod",
    )
    refine: Annotated[int, Field(ge=0, le=MOST_EVALUATIONS)] | None = _optional(
        "Evaluations that refinement may spend where losses do not add up; default 64 to compress, fewer for models of more"
        " than 8 layers, 0 to plan."
    )
    baselines: Baselines | None = _optional(
        "What the plan is measured beside: every uniform plan (default), that of a single ratio by both solvers, or none."
        " For `compress` only."
    )
    heal: Annotated[int, Field(ge=0, le=MOST_HEAL_STEPS)] | None = _optional(
        "Steps of distillation from the dense model after the closed form; default 0: none. For `compress` only.",
        60,
    )

    @classmethod
    def stored(cls, kind: str, document: Mapping[str, Any]) -> Request:
        """The request of a job's row, by whatever version: it was checked when it was submitted, and nothing of it is lost."""
        fields = {**document, "kind": kind}
        if (constraints := document.get("constraints")) is not None:
            fields["constraints"] = Constraints.model_construct(**constraints)
        return cls.model_construct(**fields)

    @property
    def document(self) -> dict[str, Any]:
        """The JSON that a job's row keeps, without what was left out. The kind has a column of its own."""
        return self.model_dump(exclude={"kind"}, exclude_unset=True, exclude_none=True)

    @property
    def sources(self) -> dict[str, str]:
        """``calibration``, ``evaluation`` -> where a command has that text from, if from a hub; over REST there is no such
        field.
        """
        return (self.model_extra or {}).get("sources", {})

    @property
    def limits(self) -> dict[str, list[str]] | None:
        """Kind of constraint -> constraints; None where none were asked for."""
        return None if self.constraints is None else self.constraints.by_kind()

    @property
    def method(self) -> str:
        """The solver's name."""
        return self.solver or DEFAULT_METHOD

    @property
    def usual_effort(self) -> str:
        """The effort where none is named: gradients say what a cut costs around the dense model in its own type."""
        return STANDARD if self.bits or self.around else GRADIENT

    @property
    def allocates(self) -> bool:
        """Whether the job allocates ranks, or takes them from the plan that it applies."""
        return ALLOCATE in SEQUENCES.get(self.kind, ())

    @property
    def compresses(self) -> bool:
        """Whether the job writes checkpoints."""
        return APPLY in SEQUENCES.get(self.kind, ())

    @property
    def evaluates(self) -> bool:
        """Whether the job reads an evaluation text."""
        return EVALUATE in SEQUENCES.get(self.kind, ())

    @property
    def applies(self) -> str | None:
        """The plan that the job applies instead of making one."""
        return self.plan if self.compresses else None

    def evaluations(self, layers: int) -> int:
        """How many evaluations refinement may spend; where nothing is said, none with bits, and to compress fewer for deep
        models: an evaluation passes through all layers, so 17 with 30 layers, 6 with 80.
        """
        if self.refine is not None:
            return self.refine
        if not self.compresses or self.bits:
            return 0
        return min(DEFAULT_EVALUATIONS, DEFAULT_EVALUATIONS * _FEW_LAYERS // layers)


_VALUES: dict[str, dict[str, Any]] = {
    name: field.get("anyOf", [field])[0] for name, field in Request.model_json_schema()["properties"].items()
}
"""Field -> what JSON schema says of its value where it has one."""
NUMBERS: dict[str, tuple[int, int]] = {
    name: (values["minimum"], values["maximum"]) for name, values in _VALUES.items() if "maximum" in values
}
"""Fields that are numbers -> their least and largest value."""
TEXTS = tuple(name for name, values in _VALUES.items() if values.get("type") == "string")
"""Fields that are one text, or one of some words."""
CHOICES: dict[str, tuple[str, ...]] = {
    name: tuple(map(str, choices))
    for name, values in _VALUES.items()
    if (choices := values.get("items", values).get("enum"))
}
"""Fields that are one of some values, or a list of such -> those values."""
