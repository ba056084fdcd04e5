"""How much a profile may cost, and the content keys of what it measures. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from allocator.digests import digest
from allocator.geometry import COMPONENTS, Geometry

MAX_WINDOW_TOKENS = 256
"""Window length where the model allows it; shorter contexts use their own limit."""

SOLVERS = ("a3", "a3+")
"""Names that users give; ``solvers.steps`` says what they do."""

DEFAULT_SOLVER = "a3+"

MOMENTS_VERSION = 2
"""Changes whenever stored moments hold something else; older files are then left alone."""

FIT_SHARD_WINDOWS = 48
"""Windows per calibration item: what a killed worker loses at most."""


@dataclass(frozen=True)
class Effort:
    """``fit_windows`` for moments, ``measure_windows`` for losses, ``points`` measured ranks per component."""

    fit_windows: int
    measure_windows: int
    points: int


EFFORTS = {
    "fast": Effort(fit_windows=96, measure_windows=16, points=4),
    "standard": Effort(fit_windows=192, measure_windows=32, points=6),
    "thorough": Effort(fit_windows=384, measure_windows=96, points=11),
}


@dataclass(frozen=True)
class Identity:
    """Everything that a measured loss depends on; two jobs that agree in it share their units."""

    document: dict[str, Any]

    @property
    def profile_key(self) -> str:
        return digest({**self.document, "part": "profile"})

    def unit_key(self, layer: int) -> str:
        return digest({**self.document, "part": "unit", "layer": layer})

    def moments_key(self, shard: int) -> str:
        """Moments depend on the fit windows only, not on what is measured afterwards."""
        kept = {
            k: v
            for k, v in self.document.items()
            if k not in ("solver", "loss", "points", "measure_windows", "steps")
        }
        return digest({**kept, "part": "moments", "version": MOMENTS_VERSION, "shard": shard})


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
    measure_windows: int,
    solver_version: str,
    points: int,
) -> Identity:
    """The identity of a profile; ``fit_windows`` and ``measure_windows`` are the numbers actually used."""
    return Identity(
        {
            "schema": "rankalloc.identity/1",
            "weights_sha256": weights_sha256,
            "config_sha256": config_sha256,
            "tokenizer_sha256": tokenizer_sha256,
            "geometry": geometry.document(),
            "calibration_sha256": calibration_sha256,
            "window_tokens": window_tokens,
            "prefix": prefix,
            "fit_windows": fit_windows,
            "fit_shard_windows": FIT_SHARD_WINDOWS,
            "measure_windows": measure_windows,
            "solver": solver_version,
            "compute_dtype": "float32",
            "loss": "kl_nats_per_token",
            "points": points,
            "steps": {c: geometry.step(c) for c in COMPONENTS},
        }
    )


def fit_shards(fit_windows: int) -> int:
    """Number of calibration items."""
    return -(-fit_windows // FIT_SHARD_WINDOWS)
