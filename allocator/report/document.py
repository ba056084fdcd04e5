"""The report (``rankalloc.report/1``, ``report.json``): what was asked, promised and measured, side by side."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer, model_validator

from allocator.base.document import LOOSE, Count, Document
from allocator.methods.registry import PAPER
from allocator.plan.documents.plan import Certificate, Costs, PlanBudget, RefinementRecord, Start
from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.plan.model.layer import PlannedRows
from allocator.plan.model.ranks import Ranks
from allocator.report.rows import ROWS, UNIFORM_PAPER, Row

REPORT_SCHEMA: Literal["rankalloc.report/1"] = "rankalloc.report/1"
_FIRST = ("digest", "ranks")
"""Fields that stand before the costs in JSON."""


def seen_text(windows: int, shared: int | None) -> str | None:
    """The warning about an evaluation text that calibration has seen; None where it has not, or that is unknown.

    Args:
        windows: of the evaluation text; 0: unknown.
        shared: how many of them also occur in the calibration text; None: unknown.
    """
    if not shared or not windows:
        return None
    return (
        f"the evaluation text was seen: {shared:,} of its {windows:,} windows ({100 * shared / windows:.0f} %)"
        " also occur in the calibration text"
    )


class Text(Document):
    """What was read of a text. Early reports say nothing of texts, later ones less than today's."""

    window_tokens: Count = Field(default=0, description="tokens of a window")
    sha256: str = Field(default="", description="of the text")
    tokens: Count = Field(default=0, description="of the text")


class CalibrationText(Text):
    """The text that solver and curves saw."""

    fit_windows: Count = Field(default=0, description="windows for moments")
    measure_windows: Count = Field(default=0, description="windows for losses")
    documents: Count = Field(default=1, description="how many texts it is")
    form: str = Field(default="", description="plain text, texts, or conversations through the chat template")
    source: str | None = Field(
        default=None,
        description="`hf:owner/name@commit:config:split` where it is [of a hub](../how-to/calibrate.md#data-sets-of-the-hub);"
        " absent elsewhere",
    )


class EvaluationText(Text):
    """The text of the final figures."""

    windows: Count = Field(default=0, description="windows that were read for the final figures")
    shared_windows: Count | None = Field(
        default=None,
        description="how many of these also occur in the calibration text: half of their runs of 32 tokens or more; absent in"
        " older reports",
    )
    documents: Count = Field(default=1, description="as of the calibration text")
    form: str = Field(default="", description="as of the calibration text")
    source: str | None = Field(default=None, description="as of the calibration text")

    @property
    def seen(self) -> str | None:
        """The warning where calibration has seen it (`seen_text`)."""
        return seen_text(self.windows, self.shared_windows)


class ModelFigures(Document):
    """What a model costs, and how it does on the evaluation text."""

    costs: Costs = Field(
        title="`, `".join(SUMMARY),  # what stands for it in JSON
        description="[metrics](budgets.md) of the whole model; FLOPs of a prefill of 2048",
    )
    evaluation_nll_nats: float = Field(description="nats/token on the evaluation text")
    evaluation_perplexity: float = Field(description="its exponential")

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, document: Any) -> Any:
        """In JSON each cost is a field of its own."""
        if not isinstance(document, dict) or "costs" in document:
            return document
        costs = {name: document[name] for name in document if name in METRICS}
        return {"costs": costs} | {name: value for name, value in document.items() if name not in costs}

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = handler(self)
        first = {name: document.pop(name) for name in _FIRST if name in document}
        return first | document.pop("costs") | document


class CutFigures(ModelFigures):
    """The same of a model with cut ranks, and what it loses against the dense one."""

    ranks: PlannedRows = Field(description="[as in a plan](#planjson)")
    predicted_loss_nats: float | None = Field(
        description="by the profile's curves, fixed before the model is cut; null for `healed`, and where the curves are of"
        " another solver"
    )
    measured_loss_nats: float = Field(description="KL to the dense model on the measure windows")
    measured_stderr_nats: float = Field(description="its standard error")
    top1_agreement: float | None = Field(
        default=None,
        description="on the same text, the share of positions at which both models hold the same next token for the most"
        " likely; absent in older reports",
    )
    evaluation_rise_nats: float = Field(
        description="nats/token more than the dense model on the evaluation text"
    )
    evaluation_rise_stderr_nats: float | None = Field(
        default=None,
        description="its standard error, window by window against the dense model; absent in older reports",
    )

    @cached_property
    def chosen(self) -> Ranks:
        """Its ranks and forms."""
        return Ranks.from_layers(self.ranks)


class PlanFigures(CutFigures):
    """The same of a plan's ranks."""

    digest: str = Field(description="the plan's; of `plan` and `healed` alone")


class Continuation(Document):
    """A beginning of the evaluation text, and what models write behind it."""

    prompt: str
    dense: str | None = None
    plan: str | None = None
    healed: str | None = None


class ReportRefinement(RefinementRecord):
    """What refinement found, whether or not it changed the ranks."""

    start: Start | None = None


class ProfileUse(Document):
    """The profile, and what it took."""

    key: str
    reused: bool
    forward_passes: int | float


class Refit(Document):
    """How error feedback refitted a projection."""

    share: float | None
    error_ratio: float


class LayerFeedback(Document):
    """How error feedback refitted a layer."""

    layer: Count
    o_proj: Refit | None
    down_proj: Refit | None


class HealingCheck(Document):
    """The KL on the validation windows along the way."""

    step: Count
    kl_nats: float


class Healing(Document):
    """What healing did, and what it took."""

    steps: Count = Field(description="of distillation")
    learning_rate: float = Field(description="at its largest")
    seconds: float = Field(description="of the steps; `timings_s.heal` has reading and writing too")
    kept_step: Count = Field(description="whose weights were kept; 0: the closed form's")
    first_kl_nats: float = Field(description="KL on the validation windows before the first step")
    last_kl_nats: float = Field(description="the same of the weights that were kept")
    checks: Annotated[tuple[HealingCheck, ...], LOOSE] = Field(
        default=(), description="that KL along the way: `step`, `kl_nats`; absent in older reports"
    )
    fit_windows: Count = Field(description="that the steps were made of")
    validation_windows: Count = Field(description="of the fit windows, which train nothing")
    window_tokens: Count = Field(default=0, description="tokens of a window; absent in older reports")
    batch_windows: Count = Field(default=0, description="windows per step; absent in older reports")
    counted: dict[str, int] = Field(description="a recount of the written tensors")


class Report(Document):
    """The whole document. Early ones lack some of its fields."""

    schema_: Literal["rankalloc.report/1"] = Field(alias="schema")
    job: str = Field(description="the job's id")
    model: str = Field(description="the job's own name for it")
    weights_sha256: str = Field(description="of the model")
    solver: str = Field(description="the plan's")
    allocation: str = Field(description="`ilp` or `uniform`")
    budgets: Annotated[tuple[PlanBudget, ...], LOOSE] = Field(description="[the plan's](#planjson)")
    request: dict[str, JsonValue] = Field(description="[what was asked](rest.md#fields-of-a-job)")
    calibration: CalibrationText = Field(
        default_factory=CalibrationText, description="as below; absent in older reports, as `evaluation` is"
    )
    evaluation: EvaluationText = Field(default_factory=EvaluationText, description="as below")
    dense: ModelFigures = Field(description="the model as it came")
    uniform: CutFigures | None = Field(
        default=None,
        description="the largest single ratio that meets every budget, ranks floored to their step, same solver",
    )
    uniform_kind: CutFigures | None = Field(
        default=None,
        description="the best pair of one ratio for QK and OV and one for the MLP, by predicted loss",
    )
    uniform_bits: CutFigures | None = Field(
        default=None,
        description="for a plan with bits: the best pair of one ratio and one number of bits, by predicted loss. `uniform` and"
        " `uniform_kind` are in the checkpoint's own type, and absent where that cannot meet the budgets",
    )
    uniform_a3: CutFigures | None = Field(
        default=None,
        description="the ranks of `uniform`, by solver `a3` (not beside `svd`, which has no moments to solve A3 on); its"
        " `predicted_loss_nats` is null if the job's solver is another, whose curves predict nothing for it",
    )
    plan: PlanFigures = Field(
        description="the chosen ranks, solved in closed form: what it says does not depend on healing"
    )
    healed: PlanFigures | None = Field(
        default=None,
        description="the same ranks after healing, which is what `compact/` and `padded/` hold; absent without `--heal`",
    )
    continuations: Annotated[tuple[Continuation, ...], LOOSE] = Field(
        default=(),
        description="at most five beginnings of the evaluation text ([24"
        " tokens](../../allocator/profiling/continuations.py)): `prompt`, and what `dense`, `plan` and `healed` write behind"
        " it, 32 tokens, the most likely one after the other, without special tokens; empty in older reports",
    )
    certificate: Certificate | None = Field(
        description="[the plan's](#planjson); null for `allocation: uniform` and for refined ranks, which prove nothing of"
        " their own"
    )
    refinement: ReportRefinement | None = Field(
        default=None,
        description="`predicted_nats`, `start_nats` (the program's plan, one-shot, measured), `additivity_error`,"
        " `final_nats`, `evaluations`, `stopped` (why), `steps` (each with what it promised and gave), `delivered_nats`;"
        " `start` (digest, ranks, certificate of the program's plan) where ranks changed; null where it did not run",
    )
    profile: ProfileUse = Field(
        description="`key`, `reused`, `forward_passes` (over a text shard; a restarted partial pass counts as one)"
    )
    feedback: Annotated[tuple[LayerFeedback, ...], LOOSE] = Field(
        default=(),
        description="per layer and projection the chosen damping (`share` of each input's own second moment, null: kept as it"
        " was) and the held-out error against one-shot; empty with solver `a3`",
    )
    heal: Healing | None = Field(default=None, description="as below; null without `--heal`")
    timings_s: dict[str, float] = Field(description="seconds per stage")
    files: dict[str, str] = Field(description="sha256 per artifact")

    @property
    def models(self) -> list[tuple[Row, ModelFigures]]:
        """The models that it has figures of, in the order in which they are listed everywhere."""
        models = ((row, getattr(self, name)) for name, row in ROWS.items())
        return [(row, figures) for row, figures in models if figures is not None]

    @property
    def shown(self) -> list[tuple[Row, ModelFigures]]:
        """Those that are shown: by the paper's method itself ``uniform_a3`` is ``uniform``, and not shown twice."""
        twice = self.solver == PAPER.name
        return [(row, figures) for row, figures in self.models if not (twice and row.name == UNIFORM_PAPER)]

    @property
    def quantized(self) -> bool:
        """Whether the plan gave components weight bits."""
        return bool(self.plan.chosen.bits)
