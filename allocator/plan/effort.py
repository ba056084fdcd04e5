"""How much a profile may cost, and which ranks it measures. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Any

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.model.precision import LATENTS, Latent, admissible_ranks

MAX_WINDOW_TOKENS = 256
"""Window length where the model allows it and a request says nothing: shorter contexts use their own limit, and as many more
windows. What an effort costs is stated in windows of this length.
"""

WHOLE_LAYERS = 8
"""Models of so few layers are measured in all of them, whatever the effort: there it costs little."""

HELD_OUT_WINDOWS = 8
"""Windows of 256 tokens, of those that losses are measured on, by which a method and A3 are compared for each component."""

FIT_WINDOWS = 192
"""Windows of 256 tokens that moments are taken over unless a request says otherwise, whatever the effort: so that every effort
extends the cheaper ones.
"""

EVALUATION_WINDOWS = 256
"""Windows of 256 tokens of the evaluation text that the final figures are taken over."""

LEAST_EVALUATION_TOKENS = 16_384
EVALUATION_STDERR_SHARE = 0.03
"""Standard error of the plan's rise over dense, as a share of its predicted loss, that the evaluation aims at."""

BLOCK_WINDOWS = 16
"""Windows of 256 tokens that a loss is measured on at a time: the grain in which more tokens are added."""

LEAST_BLOCK_WINDOWS = 2
"""Where windows are longer than ``MAX_WINDOW_TOKENS``, a block has at least so many of them."""

LEAST_LONG_WINDOWS = 4
"""Of such windows every loss is measured on at least so many: a standard error over fewer says nothing."""

LEAST_STDERR_NATS = 1e-5
"""A standard error below this is small enough whatever the loss: no plan turns on so little."""


@dataclass(frozen=True)
class Effort:
    """How much is measured of every component.

    ``points`` ranks, each on ``first_windows``; more blocks, up to ``most_windows``, for those whose standard error exceeds
    ``stderr_share`` of their loss.
    """

    points: int
    first_windows: int
    most_windows: int
    stderr_share: float
    spacing_halves: int = 3
    """Twice the power in which measured ranks are spread, see ``measured_ranks``."""
    gradient_windows: int = 0
    """Windows that losses are predicted on from gradients; 0: curves are measured end to end alone."""
    labels: int = 0
    """How often a label is drawn for every token from the model's own distribution."""
    layers: int = 0
    """How many layers, evenly spread, are measured end to end, of models with more than ``WHOLE_LAYERS``; 0: all."""
    ends: int = 0
    """Windows that the smallest ranks of all other layers are measured on; 0: they are not. There losses leave the second
    order, each layer's its own way.
    """
    factor_windows: int = 0
    """Windows that the cuts of ``layers`` are measured on, which teach one factor a kind; 0: ``first_windows``."""

    def of_windows(self, scale: int) -> Effort:
        """The same effort in windows of a ``scale``-th of the length."""
        return replace(
            self,
            first_windows=scale * self.first_windows,
            most_windows=scale * self.most_windows,
            gradient_windows=scale * self.gradient_windows,
            ends=scale * self.ends,
            factor_windows=scale * self.factor_windows,
        )

    @property
    def uses_gradients(self) -> bool:
        """Whether curves are predicted from gradients."""
        return self.gradient_windows > 0

    @property
    def judged_windows(self) -> int:
        """How many windows finished models are compared with the dense one on."""
        return max(self.most_windows, 2 * self.gradient_windows)

    def document(self) -> dict[str, Any]:
        """Its JSON in identities: what does not apply is left out, as it was before it existed."""
        optional = ("gradient_windows", "labels", "layers", "ends", "factor_windows")
        return {name: value for name, value in asdict(self).items() if value or name not in optional}

    def measured_layers(self, layers: int) -> set[int]:
        """The layers, of so many, that are measured end to end."""
        count = self.layers if self.layers and layers > WHOLE_LAYERS else layers
        if count == 1:
            return {0}
        return {round(spot * (layers - 1) / (count - 1)) for spot in range(count)}

    def of_length(self, window_tokens: int) -> Effort:
        """The same effort in windows of this length: about as many tokens, of long windows in whole blocks and at least
        ``LEAST_LONG_WINDOWS``.
        """
        if window_tokens <= MAX_WINDOW_TOKENS:
            return self.of_windows(windows_scale(window_tokens))
        block = block_of(window_tokens)
        least = -(-LEAST_LONG_WINDOWS // block)

        def in_blocks(count: int) -> int:
            # Dearer efforts continue cheaper ones block by block: none may end inside a block.
            return block * max(least, windows_in(count, window_tokens) // block)

        return replace(
            self,
            first_windows=in_blocks(self.first_windows),
            most_windows=in_blocks(self.most_windows),
            gradient_windows=in_blocks(self.gradient_windows) if self.uses_gradients else 0,
            ends=windows_in(self.ends, window_tokens) if self.ends else 0,
            factor_windows=(
                max(LEAST_BLOCK_WINDOWS, windows_in(self.factor_windows, window_tokens))
                if self.factor_windows
                else 0
            ),
        )


GRADIENT, STANDARD = "gradient", "standard"
"""The efforts that are taken where none is named."""

EFFORTS = {
    GRADIENT: Effort(
        points=2,
        first_windows=16,
        most_windows=16,
        stderr_share=1.0,
        gradient_windows=16,
        labels=4,
        layers=4,
        ends=2,
        factor_windows=8,
    ),
    "fast": Effort(points=7, first_windows=16, most_windows=16, stderr_share=1.0),
    STANDARD: Effort(points=7, first_windows=16, most_windows=48, stderr_share=0.05),
    "thorough": Effort(points=13, first_windows=48, most_windows=96, stderr_share=0.02),
}
"""``gradient`` predicts every curve from gradients and measures few points to scale them; of the others, which measure every
curve, each one's ranks and windows contain those of the one before.
"""


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


def evaluated(windows: Any) -> Any:
    """The windows of an evaluation text, (W, T), that final figures are taken over."""
    return windows[: windows_in(EVALUATION_WINDOWS, windows.shape[1])]


def evaluation_tokens(loss_nats: float) -> int:
    """How many tokens final figures rest on, where the text has them.

    Where two models differ by a KL of L nats a token, the difference of their log-likelihoods has a variance of about 2 L (to
    second order), so its mean over N tokens has a standard error of sqrt(2 L / N). N makes that ``EVALUATION_STDERR_SHARE``
    of L, within 16,384 and 65,536. The report has the measured standard error.
    """
    most = EVALUATION_WINDOWS * MAX_WINDOW_TOKENS
    tokens = 2 / (EVALUATION_STDERR_SHARE**2 * max(loss_nats, 1e-12))
    return int(min(max(tokens, LEAST_EVALUATION_TOKENS), most))


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
    if bits is None and effort.uses_gradients:
        # The largest of the usual ones loses next to nothing, which gradients know better than a difference of two passes.
        ranks = measured_ranks(geometry.candidate_ranks(component), effort.points + 1, effort.spacing_halves)
        return ranks[:-1] if len(ranks) > effort.points else ranks
    if bits is None:
        return measured_ranks(geometry.candidate_ranks(component), effort.points, effort.spacing_halves)
    admissible = admissible_ranks(geometry, component, bits)
    return [*measured_ranks(admissible, effort.points, effort.spacing_halves), *admissible[-1:]]


def latent_ranks(geometry: Geometry, effort: Effort, form: Latent) -> list[int]:
    """The ranks of a latent that this effort measures: those of a component whose heads are left whole, which has no others."""
    if LATENTS[form] not in geometry.fixed or not effort.uses_gradients:
        return []
    above = geometry.full_rank(LATENTS[form])
    ranks = measured_ranks([*geometry.latent_ranks(form), above], effort.points + 1, effort.spacing_halves)
    return ranks[: effort.points]


GRADIENT_RANKS = {"qk": 8, "ov": 12, "mlp": 12}
"""At how many ranks a component's loss is predicted from gradients, where it has so many; QK's need the attention run again."""


def gradient_ranks(geometry: Geometry, effort: Effort, component: Component) -> list[int]:
    """The ranks at which a component's loss is predicted: spread over all, and those that are measured too."""
    spread = measured_ranks(geometry.candidate_ranks(component), GRADIENT_RANKS[component])
    return sorted({*spread, *component_ranks(geometry, effort, component)})
