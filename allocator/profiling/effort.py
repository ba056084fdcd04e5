"""How much a profile may cost, and the content keys of what it measures. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isqrt
from typing import Any

from allocator.digests import digest
from allocator.geometry import COMPONENTS, Component, Geometry
from allocator.precision import admissible_ranks

MAX_WINDOW_TOKENS = 256
"""Window length where the model allows it and a request says nothing: shorter contexts use their own limit, and as many more
windows. What an effort costs is stated in windows of this length.
"""

SOLVERS = ("a3", "a3+")
"""Names that users give; ``solvers.steps`` says what they do."""

DEFAULT_SOLVER = "a3+"

MOMENTS_VERSION = 3
"""Changes whenever stored moments hold something else; older files are then left alone."""

ROUNDING_VERSION = 1
"""Changes whenever ``solvers.rounding`` gives other values; losses of quantized cuts are then measured again."""

FIT_SHARD_WINDOWS = 48
"""Windows of 256 tokens per calibration item: what a killed worker loses at most."""

FIT_WINDOWS = 192
"""Windows of 256 tokens that moments are taken over unless a request says otherwise, whatever the effort: so that every effort
extends the cheaper ones.
"""

EVALUATION_WINDOWS = 256
"""Windows of 256 tokens of the evaluation text that the final figures are taken over."""

BLOCK_WINDOWS = 16
"""Windows of 256 tokens that a loss is measured on at a time: the grain in which more tokens are added."""

LEAST_BLOCK_WINDOWS = 2
"""Where windows are longer than ``MAX_WINDOW_TOKENS``, a block has at least so many of them."""

LEAST_LONG_WINDOWS = 4
"""Of such windows every loss is measured on at least so many: a standard error over fewer says nothing."""

MOST_FIT_SHARDS = 4
"""Shards of moments: each holds a whole set of them on disk, so more windows make larger shards and not more."""

LEAST_STDERR_NATS = 1e-5
"""A standard error below this is small enough whatever the loss: no plan turns on so little."""


@dataclass(frozen=True)
class Effort:
    """What is measured of every component.

    ``points`` ranks, each on ``first_windows``; more blocks, up to ``most_windows``, for those whose standard error exceeds
    ``stderr_share`` of their loss.
    """

    points: int
    first_windows: int
    most_windows: int
    stderr_share: float
    spacing_halves: int = 3
    """Twice the power in which measured ranks are spread, see ``measured_ranks``."""

    def of_windows(self, scale: int) -> Effort:
        """The same effort in windows of a ``scale``-th of the length."""
        return replace(self, first_windows=scale * self.first_windows, most_windows=scale * self.most_windows)

    def of_length(self, window_tokens: int) -> Effort:
        """The same effort in windows of this length: about as many tokens, of long windows in whole blocks and at least
        ``LEAST_LONG_WINDOWS``.
        """
        if window_tokens <= MAX_WINDOW_TOKENS:
            return self.of_windows(windows_scale(window_tokens))
        block = block_of(window_tokens)
        least = -(-LEAST_LONG_WINDOWS // block)

        def whole(count: int) -> int:
            # Dearer efforts continue cheaper ones block by block: none may end inside a block.
            return block * max(least, windows_in(count, window_tokens) // block)

        return replace(self, first_windows=whole(self.first_windows), most_windows=whole(self.most_windows))


EFFORTS = {
    "fast": Effort(points=7, first_windows=16, most_windows=16, stderr_share=1.0),
    "standard": Effort(points=7, first_windows=16, most_windows=48, stderr_share=0.05),
    "thorough": Effort(points=13, first_windows=48, most_windows=96, stderr_share=0.02),
}
"""Each one's ranks and windows contain those of the one before."""


def windows_scale(window_tokens: int) -> int:
    """How many windows of this length stand for one of ``MAX_WINDOW_TOKENS``: what an effort costs and how sure its losses are
    is a matter of tokens.
    """
    return max(1, MAX_WINDOW_TOKENS // window_tokens)


def windows_in(count: int, window_tokens: int) -> int:
    """How many windows of this length stand for ``count`` of ``MAX_WINDOW_TOKENS``; no more tokens where they are longer, but
    at least one window.
    """
    if window_tokens <= MAX_WINDOW_TOKENS:
        return windows_scale(window_tokens) * count
    return max(1, count * MAX_WINDOW_TOKENS // window_tokens)


def block_of(window_tokens: int) -> int:
    """How many windows of this length a loss is measured on at a time."""
    return max(LEAST_BLOCK_WINDOWS, windows_in(BLOCK_WINDOWS, window_tokens))


def fit_shard_of(window_tokens: int, fit_windows: int) -> int:
    """How many of the ``fit_windows`` of this length moments are added up over at a time."""
    return max(windows_in(FIT_SHARD_WINDOWS, window_tokens), -(-fit_windows // MOST_FIT_SHARDS))


def evaluated(windows: Any) -> Any:
    """Of the windows (W, T) of an evaluation text those that final figures are taken over."""
    return windows[: windows_in(EVALUATION_WINDOWS, windows.shape[1])]


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

    def loss_key(self, layer: int, component: str, rank: int, block: int, bits: int | None = None) -> str:
        """One component's loss at one rank, in so many bits where there are some, on one block of windows."""
        place: dict[str, Any] = {"layer": layer, "component": component, "rank": rank, "block": block}
        if bits is not None:
            place |= {"bits": bits, "rounding": ROUNDING_VERSION}
        return digest({"solution": self._solution, "part": "loss", **place})

    def context_key(self) -> str:
        """The layers that curves around a plan are measured among."""
        return digest({"solution": self._solution, "part": "context"})

    def moments_key(self, shard: int) -> str:
        """Moments depend on the fit windows only, not on what is solved or measured afterwards."""
        kept = {
            name: value
            for name, value in self.document["solution"].items()
            if name not in ("solver", "loss", "around", "block_windows")
        }
        return digest({**kept, "part": "moments", "version": MOMENTS_VERSION, "shard": shard})

    @property
    def effort(self) -> Effort:
        # Profiles that do not say how their ranks are spread have them evenly.
        return Effort(**{"spacing_halves": 2, **self.document["effort"]})

    @property
    def bits(self) -> list[int]:
        """Of the quantized cuts that are measured beside those in the checkpoint's own type; descending."""
        found: list[int] = self.document.get("bits", [])
        return found

    @property
    def block_windows(self) -> int:
        """How many windows a loss is measured on at a time."""
        return int(self.document["solution"]["block_windows"])

    @property
    def fit_shard_windows(self) -> int:
        """How many windows moments are added up over at a time."""
        return int(self.document["solution"]["fit_shard_windows"])

    @property
    def fit_shards(self) -> int:
        """Number of calibration items."""
        return -(-int(self.document["solution"]["fit_windows"]) // self.fit_shard_windows)

    @property
    def around(self) -> list[dict[str, int]] | None:
        """The ranks [{layer, qk, ov, mlp}] around which losses are measured; None: around the dense model."""
        found: list[dict[str, int]] | None = self.document["solution"]["around"]
        return found


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
) -> Identity:
    """The identity of a profile; ``fit_windows`` is the number actually used, ``effort`` in windows of this length."""
    return Identity(
        {
            "schema": "rankalloc.identity/2",
            "solution": {
                "weights_sha256": weights_sha256,
                "config_sha256": config_sha256,
                "tokenizer_sha256": tokenizer_sha256,
                "geometry": geometry.document(),
                "calibration_sha256": calibration_sha256,
                "window_tokens": window_tokens,
                "prefix": prefix,
                "fit_windows": fit_windows,
                "fit_shard_windows": fit_shard_of(window_tokens, fit_windows),
                "block_windows": block_of(window_tokens),
                "solver": solver_version,
                "compute_dtype": "float32",
                "loss": "kl_nats_per_token",
                "around": around,
            },
            "effort": asdict(effort),
            "steps": {c: geometry.step(c) for c in COMPONENTS},
            **({"bits": list(bits)} if bits else {}),
        }
    )


def measured_ranks(candidates: Sequence[int], points: int, spacing_halves: int = 3) -> list[int]:
    """Which candidate ranks to measure: the smallest, and up to ``points - 1`` more below the full rank.

    The k-th of n gaps ends at (k / n)^(spacing_halves / 2) of the candidates: denser at low ranks, where losses are large and
    curves bend most. Where ``points - 1`` doubles, the ranks measured before are among the new ones.
    """
    below = list(candidates[:-1])
    if len(below) <= points:
        return below
    gaps, last = points - 1, len(below) - 1
    # Rounded in integers: the same fraction must give the same place whatever the number of points.
    places = (
        (isqrt(4 * last**2 * spot**spacing_halves // gaps**spacing_halves) + 1) // 2 for spot in range(points)
    )
    return [below[place] for place in sorted(set(places))]


def component_ranks(
    geometry: Geometry, effort: Effort, component: Component, bits: int | None = None
) -> list[int]:
    """The ranks of a component that this effort measures: in fewer bits those that admit them, the largest included."""
    if bits is None:
        return measured_ranks(geometry.candidate_ranks(component), effort.points, effort.spacing_halves)
    admissible = admissible_ranks(geometry, component, bits)
    return [*measured_ranks(admissible, effort.points, effort.spacing_halves), *admissible[-1:]]
