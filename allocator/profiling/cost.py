"""The cost of a profile, stated before it is measured. No torch.

A *forward-equivalent* is one pass of the calibration windows through the whole model: of a profile from gradients those that
moments are taken over, the vocabulary's product included; of others also the most that losses are measured on, through the
layers alone, since their head is a small part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allocator.plan.effort import Effort
from allocator.plan.identity import Identity
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import LATENT, Latent
from allocator.profiling.needs import LayerNeeds
from allocator.profiling.work import (
    gradient_work,
    head_layers,
    layer_passes,
    moments_work,
    reference_passes,
    round_work,
)


@dataclass(frozen=True)
class ProfileCost:
    """Per layer of the model, in forward-equivalents, from the least (no loss needs more windows) to the most (all do)."""

    cuts: int
    least: tuple[float, ...]
    most: tuple[float, ...]
    first_windows: int
    most_windows: int
    window_tokens: int
    gradient_windows: int = 0
    passes: float = 0.0
    """For a profile from gradients: forward-equivalents of the fit windows through the whole model, moments included."""
    moments_passes: float = 1

    def document(self) -> dict[str, Any]:
        """Numbers people ask for before they start."""
        if self.gradient_windows:
            return {
                "cuts": self.cuts,
                "measure_tokens": [self.first_windows * self.window_tokens],
                "gradient_tokens": self.gradient_windows * self.window_tokens,
                "forward_equivalents": [round(self.passes, 2)],
            }
        return {
            "cuts": self.cuts,
            "measure_tokens": [n * self.window_tokens for n in (self.first_windows, self.most_windows)],
            "forward_equivalents_per_layer": [
                round(sum(passes) / len(passes), 3) for passes in (self.least, self.most)
            ],
            "forward_equivalents": [round(sum(passes), 2) for passes in (self.least, self.most)],
        }

    def sentence(self) -> str:
        """The same for people."""
        if self.gradient_windows:
            return (
                f"gradients on {self.gradient_windows * self.window_tokens:,} tokens, {self.cuts} cuts measured end to end on"
                f" {self.first_windows * self.window_tokens:,}: about {self.passes:.1f} forward passes of the calibration"
                f" tokens{', moments included' if self.moments_passes else ''}"
            )
        least, most = (sum(passes) / len(passes) for passes in (self.least, self.most))
        tokens = self.document()["measure_tokens"]
        return (
            f"{self.cuts} cuts on {tokens[0]:,} to {tokens[1]:,} tokens each: {least:.1f} to {most:.1f} forward passes"
            " of the calibration windows per layer"
        )


def profile_cost(
    identity: Identity,
    geometry: Geometry,
    measure_windows: int,
    *,
    calibrated: bool = True,
    latent_ranks: Mapping[Latent, Sequence[int]] | None = None,
) -> ProfileCost:
    """The cost of a profile from nothing.

    Args:
        measure_windows: how many the text has.
        calibrated: whether its method solves on moments, which take a pass.
        latent_ranks: the ranks at which its method may make queries or values of latents.
    """
    effort: Effort = identity.effort
    first, most = (min(n, measure_windows) for n in (effort.first_windows, effort.most_windows))
    all_windows = geometry.layers * (identity.document["solution"]["fit_windows"] + most)
    layers = [LayerNeeds(identity, geometry, index, measure_windows) for index in range(geometry.layers)]
    reference = reference_passes(layer for layer in layers if layer.cuts)
    shares: list[list[float]] = []
    for windows in (first, most):
        around = identity.around is not None
        shares.append(
            [
                layer_passes(
                    layer.index,
                    geometry.layers,
                    len(layer.cuts),
                    windows,
                    around=around,
                    reference=reference.get(layer.index),
                )
                / all_windows
                for layer in layers
            ]
        )
    if effort.uses_gradients:
        # Attention once more, forwards and back.
        moments = int(calibrated) + _EFFECT_PASSES * (LATENT in (latent_ranks or ()))
        return _from_gradients(
            identity,
            layers,
            reference,
            min(effort.factor_windows or first, first),
            moments_passes=moments,
            latent_ranks=latent_ranks or {},
        )
    return ProfileCost(
        cuts=len(layers[-1].cuts),
        least=tuple(shares[0]),
        most=tuple(shares[1]),
        first_windows=first,
        most_windows=most,
        window_tokens=identity.document["solution"]["window_tokens"],
    )


_EFFECT_PASSES = 1.0
"""The work of taking the moments of a layer's queries beside the others, in passes through the layer."""
_SLOWNESS = 1.5
"""Seconds of a unit of a profile's work over those of a plain pass's: its pieces are small, and beside products there are sums,
refits and softmaxes. On two cores it was about the same in all its stages.
"""


def _from_gradients(
    identity: Identity,
    layers: Sequence[LayerNeeds],
    reference: Mapping[int, int],
    first_windows: int,
    *,
    moments_passes: float,
    latent_ranks: Mapping[Latent, Sequence[int]],
) -> ProfileCost:
    geometry = layers[0].geometry
    fit, predicted = identity.document["solution"]["fit_windows"], layers[0].gradient_windows
    work = moments_passes * moments_work(geometry, fit, identity.document["solution"]["window_tokens"])
    for block in layers[0].gradient_blocks:
        work += gradient_work(layers[0], block, len(layers), latent_ranks)
    for layer in layers:
        if layer.cuts:
            blocks = range(layer.first_blocks)
            rounds = round_work(
                layer, dict.fromkeys(blocks, layer.cuts), dict.fromkeys(blocks, reference[layer.index])
            )
            work += rounds.windows
    passes = _SLOWNESS * work / (fit * (geometry.layers + head_layers(geometry)))
    return ProfileCost(
        cuts=sum(len(layer.cuts) for layer in layers),
        least=(),
        most=(),
        first_windows=first_windows,
        most_windows=first_windows,
        window_tokens=identity.document["solution"]["window_tokens"],
        gradient_windows=predicted,
        passes=passes,
        moments_passes=moments_passes,
    )
