"""What a profile file may hold, field by field: the schema ``rankalloc.profile-file/1``. No SQL, no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from allocator.plan.effort import EFFORTS
from allocator.plan.model.geometry import Component

FILE_SCHEMA = "rankalloc.profile-file/1"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]
Nats = Annotated[float, Field(ge=0, le=1e6)]
Change = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A loss that may be a gain: counted from a plan's own."""
Energy = Annotated[float, Field(ge=0, le=1e100)]
"""An analytic loss, in its component's own unit."""
Number = Count | Energy
Short = Annotated[str, Field(min_length=1, max_length=64)]
Flag = Annotated[bool, Field()]


BitsIn = Annotated[list[Literal[8, 4]], Field(max_length=2)]
"""Of quantized cuts, where some were measured; left out where none were."""


class _Strict(BaseModel):
    """Nothing is converted, nothing is unknown, no number is NaN or infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class GeometryIn(_Strict):
    """``allocator.plan.model.geometry.Geometry``."""

    family: Short
    layers: Annotated[int, Field(ge=1, le=10_000)]
    hidden: Size
    heads: Annotated[int, Field(ge=1, le=65_536)]
    kv_heads: Annotated[int, Field(ge=1, le=65_536)]
    head_dim: Annotated[int, Field(ge=1, le=65_536)]
    intermediate: Size
    mlp_matrices: Literal[2, 3]
    qk_step: Literal[1, 2]
    qk_bias: Flag
    ov_bias: Flag
    mlp_bias: Flag
    vocab: Size
    max_positions: Annotated[int, Field(ge=1, le=2**40)]
    total_params: Annotated[int, Field(ge=1, le=10**14)]
    bytes_per_param: Annotated[int, Field(ge=1, le=8)]
    windows: Annotated[list[Annotated[int, Field(ge=0, le=2**40)]], Field(max_length=10_000)]
    fixed: Annotated[list[Component], Field(max_length=3)]
    experts: Annotated[int, Field(ge=1, le=65_536)]
    active_experts: Annotated[int, Field(ge=1, le=65_536)]


class ModelIn(_Strict):
    """Which model was measured."""

    reference: Annotated[str, Field(min_length=1, max_length=512)]
    weights_sha256: Sha256
    geometry: GeometryIn


class CalibrationIn(_Strict):
    """Which text it was measured on."""

    sha256: Sha256
    tokens: Count
    fit_windows: Count
    measure_windows: Count


class RanksIn(_Strict):
    """One layer of a plan."""

    layer: Annotated[int, Field(ge=0, lt=10_000)]
    qk: Size
    ov: Size
    mlp: Size


class AroundIn(_Strict):
    """The plan that curves were measured around, and its own loss."""

    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{1,128}$")]
    ranks: Annotated[list[RanksIn], Field(min_length=1, max_length=10_000)]
    loss_nats: Nats
    stderr_nats: Nats


class PointIn(_Strict):
    """One measured point of a curve."""

    rank: Size
    loss_nats: Change
    stderr_nats: Nats
    windows: Annotated[int, Field(ge=0, le=10**9)]


class PredictedIn(_Strict):
    """What gradients say of one rank of a curve."""

    rank: Size
    loss_nats: Nats
    stderr_nats: Nats
    same_windows_nats: Nats


class GradientsIn(_Strict):
    """On what losses were predicted; how they are scaled follows from the curves."""

    windows: Count
    labels: Count


class QuantizedIn(_Strict):
    """What a curve in fewer bits is built from; its ranks are the geometry's."""

    measured: Annotated[list[PointIn], Field(min_length=1, max_length=65_536)]


class LatentIn(_Strict):
    """What gradients say of a component of a latent; its ranks are the geometry's."""

    predicted: Annotated[list[PredictedIn], Field(min_length=1, max_length=65_536)]


class CurveIn(_Strict):
    """What a curve is built from."""

    layer: Annotated[int, Field(ge=0, lt=10_000)]
    component: Component
    ranks: Annotated[list[Size], Field(min_length=1, max_length=65_536)]
    analytic: Annotated[list[Energy], Field(min_length=1, max_length=65_536)]
    measured: Annotated[list[PointIn], Field(max_length=65_536)]
    quantized: dict[Literal["8", "4"], QuantizedIn] = Field(default_factory=dict)
    predicted: Annotated[list[PredictedIn], Field(max_length=65_536)] = Field(default_factory=list)
    joint: LatentIn | None = None
    latent: LatentIn | None = None


class IdentityIn(_Strict):
    """What the key is the hash of. Its parts are compared with the rest of the file; more of them do no harm."""

    schema_: Short = Field(alias="schema")
    solution: dict[str, JsonValue]
    effort: dict[str, JsonValue]
    steps: dict[str, JsonValue]
    bits: BitsIn = Field(default_factory=list)


class ProfileIn(_Strict):
    """A profile without what is computed from it."""

    schema_: Literal["rankalloc.profile/1"] = Field(alias="schema")
    key: Sha256
    model: ModelIn
    solver: Short
    """Whether there is such a method is asked where a profile is taken in: to plan nobody needs to know it."""
    solver_version: Short
    calibration: CalibrationIn
    effort: Literal[tuple(EFFORTS)]  # type: ignore[valid-type]
    cost: Annotated[dict[Short, Number | list[Number]], Field(max_length=32)]
    around: AroundIn | None
    gradients: GradientsIn | None = None
    bits: BitsIn = Field(default_factory=list)
    identity: IdentityIn
    curves: Annotated[list[CurveIn], Field(min_length=1, max_length=30_000)]


class FileIn(_Strict):
    """The whole file; ``sha256`` is over the canonical JSON of the rest."""

    schema_: Literal["rankalloc.profile-file/1"] = Field(alias="schema")
    profile: ProfileIn
    sha256: Sha256

    def content(self) -> dict[str, Any]:
        """The profile as plain JSON, every float a float."""
        # What is left out stays out: a file without bits has the bytes it always had.
        return self.profile.model_dump(by_alias=True, exclude_unset=True)
