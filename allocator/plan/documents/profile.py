"""The profile (``rankalloc.profile/1``): what was measured of a model on a text, immutable, named by its content."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from allocator.base.document import LOOSE, Count, Document, Energy, Nats, Sha256, Short
from allocator.plan.documents.curve import Curve
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.layer import LayerRows
from allocator.plan.model.precision import LATENTS, Latent
from allocator.plan.model.ranks import Ranks

BitsOf = Annotated[tuple[Literal[8, 4], ...], LOOSE, Field(max_length=2)]
_Number = Count | Energy
Cost = Annotated[dict[Short, _Number | list[_Number]], Field(max_length=32)]


class Model(Document):
    """Which model was measured."""

    reference: Annotated[str, Field(min_length=1, max_length=512)]
    weights_sha256: Sha256
    geometry: Geometry


class Calibration(Document):
    """Which text it was measured on."""

    sha256: Sha256
    tokens: Count | None = None
    fit_windows: Count = 0
    measure_windows: Count = 0


class Around(Document):
    """The plan that curves were measured around, and its own loss."""

    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{1,128}$")]
    ranks: LayerRows
    loss_nats: Nats
    stderr_nats: Nats

    @property
    def start(self) -> Ranks:
        """The plan's ranks."""
        return Ranks(*(tuple(getattr(row, c) for row in self.ranks) for c in COMPONENTS))


class Scale(Document):
    """How measured losses of one kind of component follow the predicted ones."""

    factor: float
    level_nats: float
    log_spread: float
    """Standard deviation of log measured around it where losses are small: how far an unmeasured curve may be off."""
    points: Count
    """How many measured points it rests on."""


class Gradients(Document):
    """On what losses were predicted, and how measured ones follow them: that is made with the curves, and in no file."""

    windows: Count
    labels: Count
    scales: dict[Component, Scale] | None = None


class Provenance(Document):
    """Where an imported profile comes from."""

    original_key: str
    sha256: str
    imported_by: str
    imported_at: str


class Facts(Document):
    """A profile but for its curves."""

    schema_: Literal["rankalloc.profile/1"] = Field(alias="schema")
    key: str = Field(
        description='sha256 of the canonical JSON of `identity`; of an untrusted import, of {`part`: "imported", `sha256`}'
    )
    model: Model = Field(
        description="`reference` (a name; of a path only its last part), `weights_sha256`, `geometry` (sizes, `windows`,"
        " `fixed` components, experts)"
    )
    solver: Short = Field(description="the name people use")
    solver_version: Short | None = Field(default=None, description="the version that losses depend on")
    calibration: Calibration = Field(
        description="`sha256` of the text, `tokens`, `fit_windows` (for moments), `measure_windows` (for losses)"
    )
    effort: Short | None = Field(default=None, description="`gradient`, `fast`, `standard` or `thorough`")
    cost: Cost = Field(
        default_factory=dict,
        description="stated beforehand: `cuts` of a layer, `measure_tokens` [least, most] of each, `forward_equivalents`"
        " [least, most] of the calibration windows, `forward_equivalents_per_layer`; of effort `gradient` all `cuts` together,"
        " `measure_tokens`, `gradient_tokens` and `forward_equivalents` of the whole profile; and afterwards `measured_tokens`,"
        " `units` (stored results the curves are made of)",
    )
    around: Around | None = Field(
        default=None,
        description="null: the dense model; else `plan` (digest), its `ranks`, `loss_nats`, `stderr_nats`",
    )
    gradients: Gradients | None = Field(
        default=None,
        description="of effort `gradient` alone: `windows` and `labels` of the prediction, `scales` {component: `factor`,"
        " `level_nats`, `log_spread`, `points`}: how measured losses follow predicted ones",
    )
    bits: BitsOf = Field(
        default=(),
        description="[8, 4], [8] or [4]: the bits of quantized cuts, where some were measured; absent otherwise",
    )

    @property
    def start(self) -> Ranks:
        """The ranks that losses are counted from: the dense model's, or those of the plan it is around."""
        return Ranks.dense(self.model.geometry) if self.around is None else self.around.start


class Profile(Facts):
    """The whole document. Early ones lack some of its fields."""

    identity: dict[str, JsonValue] | None = Field(
        default=None,
        description="everything the key depends on: `solution` (weights, config, tokenizer, geometry, text and its windows,"
        " solver, loss, `around`), which measured units share, and `effort` (`points` per curve, `spacing_halves`: twice the"
        " power in which they are spread, `first_windows`, `most_windows`, `stderr_share`); `bits` where there are some",
    )
    curves: Annotated[tuple[Curve, ...], LOOSE] = Field(
        description="one per layer and component, layer by layer, `qk`, `ov`, `mlp`"
    )
    provenance: Provenance | None = Field(
        default=None,
        description="imported profiles only: `original_key`, `sha256` of the file's content, `imported_by`, `imported_at`",
    )
    shared_by: str | None = Field(
        default=None, description="in answers only, of a profile that another team shares: that team"
    )

    @property
    def latents(self) -> list[Latent]:
        """The latents whose losses it knows."""
        return [form for form in LATENTS if any(getattr(curve, form) is not None for curve in self.curves)]
