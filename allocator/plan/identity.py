"""The identity of a profile: what it depends on, which names everything that is measured for it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from allocator.base.digests import digest
from allocator.base.errors import Conflict
from allocator.plan.documents.profile import Profile
from allocator.plan.effort import WHOLE_LAYERS, Effort, block_of
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import LATENTS, Latent, bits_of, latent_rows, latents_of

MOMENTS_VERSION = 4
"""Changes whenever stored moments hold something else; older files are then left alone."""

ROUNDING_VERSION = 1
"""Changes whenever ``solvers.model.rounding`` gives other values; losses of quantized cuts are then measured again."""

SOLVED_VERSION = 1
"""Changes whenever what is found by solving a layer (``solvers.a3.solved``) may change for the same moments and solver."""

GRADIENT_VERSION = 1
"""Changes whenever losses predicted from gradients may change."""

PLAN_LOSS_VERSION = 2
"""Changes whenever losses of whole plans, as refinement measures them, may change."""


@dataclass(frozen=True)
class Identity:
    """Everything that a profile depends on. ``document`` has three parts: ``solution``, which every measured loss depends on,
    ``effort``, which says what is measured, and ``steps``, of which candidate ranks are multiples; where quantized cuts are
    measured too, ``bits``, which ones. Two jobs that agree in the first share the losses that they measure.
    """

    document: dict[str, Any]

    @property
    def profile_key(self) -> str:
        return digest({**self.document, "part": "profile"})

    @cached_property
    def _solution(self) -> str:
        return digest(self.document["solution"])

    def analytic_key(self, layer: int) -> str:
        """The analytic curves of one layer's components."""
        grid = {"steps": self.document["steps"], "layer": layer}
        return digest({"solution": self._solution, "part": "analytic", **grid})

    def loss_key(
        self,
        layer: int,
        component: str,
        rank: int,
        block: int,
        bits: int | None = None,
        windows: int | None = None,
    ) -> str:
        """One component's loss at one rank, in so many bits where there are some, on one block of windows; ``windows``: on the
        first of them alone.
        """
        place: dict[str, Any] = {"layer": layer, "component": component, "rank": rank, "block": block}
        if bits is not None:
            place |= {"bits": bits, "rounding": ROUNDING_VERSION}
        if windows is not None:
            place |= {"windows": windows}
        return digest({"solution": self._solution, "part": "loss", **place})

    def gradient_key(self, layer: int, block: int) -> str:
        """One layer's losses at many ranks, predicted from gradients on one block of windows."""
        effort = {name: self.document["effort"][name] for name in ("labels",)}
        place = {"layer": layer, "block": block, "steps": self.document["steps"], "version": GRADIENT_VERSION}
        return digest({"solution": self._solution, "part": "gradient", **effort, **place})

    def context_key(self) -> str:
        """The layers that curves around a plan are measured among."""
        return digest({"solution": self._solution, "part": "context"})

    def moments_key(self) -> str:
        """Moments depend on the fit windows only, not on what is solved or measured afterwards."""
        solution = {
            name: value
            for name, value in self.document["solution"].items()
            if name not in ("solver", "loss", "around", "block_windows")
        }
        return digest({**solution, "part": "moments", "version": MOMENTS_VERSION, "shard": 0})

    def solved_key(self) -> str:
        """The solutions of all layers."""
        facts = {"moments": self.moments_key(), "solver": self.document["solution"]["solver"]}
        return digest({**facts, "part": "solved", "version": SOLVED_VERSION})

    def layers_key(self, solver_version: str, ranks: Sequence[Mapping[str, Any]]) -> str:
        """A whole model solved at ``ranks``, rows of all layers: by error feedback each depends on those before it."""
        facts = {"solved": self.solved_key(), "solver": solver_version, "rounding": ROUNDING_VERSION}
        return digest({**facts, "part": "layers", "ranks": _rows(ranks)})

    def plan_key(self, ranks: Sequence[Mapping[str, Any]], windows: int, delivered_by: str | None) -> str:
        """A whole model's loss on so many windows: of the one-shot solutions, or as delivered by a solver's version."""
        facts = {"windows": windows, "delivered_by": delivered_by, "version": PLAN_LOSS_VERSION}
        return digest({"solution": self._solution, "part": "plan", **facts, "ranks": _rows(ranks)})

    @property
    def effort(self) -> Effort:
        # Profiles that do not say how their ranks are spread have them evenly.
        return Effort(**{"spacing_halves": 2, **self.document["effort"]})

    @property
    def bits(self) -> list[int]:
        """The bits of quantized cuts that are measured beside those in the checkpoint's own type; descending."""
        bits: list[int] = self.document.get("bits", [])
        return bits

    @property
    def block_windows(self) -> int:
        """How many windows a loss is measured on at a time."""
        return int(self.document["solution"]["block_windows"])

    @property
    def around(self) -> list[dict[str, int]] | None:
        """The ranks [{layer, qk, ov, mlp}] around which losses are measured; None: around the dense model."""
        ranks: list[dict[str, int]] | None = self.document["solution"]["around"]
        return ranks


def identity_of(profile: Profile) -> Identity:
    """A stored profile's identity. Raises Conflict for one that an earlier version made, whose losses mean something else."""
    document = profile.identity or {}
    if not {"solution", "effort"} <= document.keys():
        raise Conflict(
            f"profile {profile.key[:12]} was measured by an earlier version; profile its model again"
        )
    return Identity(document)


def _rows(ranks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a plan's rows that decide the weights; the layers are in order."""
    return [
        {
            **{c: row[c] for c in COMPONENTS},
            "bits": dict(bits_of(row)),
            **latent_rows(latents_of(row)),
        }
        for row in ranks
    ]


def identity(
    *,
    weights_sha256: str,
    config_sha256: str,
    tokenizer_sha256: str,
    geometry: Geometry,
    calibration_sha256: str,
    window_tokens: int,
    prefix: list[int],
    fit_windows: int,
    solver_version: str,
    effort: Effort,
    around: list[dict[str, int]] | None = None,
    bits: Sequence[int] = (),
    latents: Sequence[Latent] = (),
) -> Identity:
    """The identity of a profile; ``fit_windows`` is the number actually used, ``effort`` in windows of this length;
    ``latents``: those whose moments are taken.
    """
    if geometry.layers <= WHOLE_LAYERS:  # all are measured: what others would be measured on decides nothing
        effort = replace(effort, ends=0, factor_windows=0)
    return Identity(
        {
            "schema": "rankalloc.identity/2",
            "solution": {
                "weights_sha256": weights_sha256,
                "config_sha256": config_sha256,
                "tokenizer_sha256": tokenizer_sha256,
                "geometry": geometry.document,
                "calibration_sha256": calibration_sha256,
                "window_tokens": window_tokens,
                "prefix": prefix,
                "fit_windows": fit_windows,
                # One set of moments: several would have to be added up by everybody who reads them.
                "fit_shard_windows": fit_windows,
                "block_windows": block_of(window_tokens),
                "solver": solver_version,
                "compute_dtype": "float32",
                "loss": "kl_nats_per_token",
                "around": around,
                # Beside heads that stay whole they are what is measured.
                **{form: "measured" if LATENTS[form] in geometry.fixed else True for form in latents},
            },
            "effort": effort.document(),
            "steps": {c: geometry.step(c) for c in COMPONENTS},
            **({"bits": list(bits)} if bits else {}),
        }
    )
