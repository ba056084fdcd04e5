"""The work of a profile's steps, the grain of progress. No torch.

The unit is one window through one layer, or what takes as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from allocator.plan.effort import gradient_ranks
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import JOINT, LATENT, Latent
from allocator.profiling.needs import Cut, LayerNeeds

WORK = "windows"
"""The unit of progress: windows that run through one layer, or what takes as long."""

_LOGITS_LIMIT_BYTES = 256 << 20
_TOKENS_PER_BATCH = 4096


_LOCAL_PASSES = {"qk": 0.4, "ov": 0.15, "mlp": 0.25, JOINT: 0.4, LATENT: 0.4}
"""The work of predicting one rank's loss, in passes through the layer: the attention again; a projection; half an MLP."""


def layer_passes(
    layer: int, layers: int, cuts: int, windows: int, *, around: bool, reference: int | None = None
) -> int:
    """Windows times layers of measuring one layer's cuts, each of which runs from its layer on.

    Args:
        reference: how many layers the dense model runs through for them; None: all.
    """
    before = layer if around else 0
    return windows * ((layers if reference is None else reference) + before + cuts * (layers - layer))


def reference_passes(needs: Iterable[LayerNeeds]) -> dict[int, int]:
    """Layer -> how many layers the dense model runs through for its cuts, where one process measures all in rising order: for
    the first through everything, then on from there (``allocator.profiling.reference``).
    """
    passes: dict[int, int] = {}
    reached: dict[int, int] = {}
    for layer in needs:
        windows = layer.block_size(0)
        passes[layer.index] = layer.index - reached[windows] if windows in reached else layer.geometry.layers
        reached[windows] = layer.index
    return passes


def moments_work(geometry: Geometry, windows: int, window_tokens: int) -> float:
    """The work of taking the moments of all layers over so many windows and solving on them, in windows through one layer.

    Beside the pass two Gram matrices, of the MLP's neurons and of all heads, of which half is computed, and as much again for
    the small ones; then the elimination of m neurons and two comparisons, some 6 m^3 multiplications.
    """
    a_pass = sum(rows * columns for rows, columns in _shapes(geometry))
    neurons, heads = geometry.full_rank("mlp"), geometry.heads * geometry.head_dim
    grams = windows * (neurons**2 + heads**2) / a_pass
    return geometry.layers * (windows + grams + 6 * neurons**3 / (window_tokens * a_pass))


def body_windows(window_tokens: int) -> int:
    """Windows that run through the layers together: 4096 tokens. Their logits are computed in smaller parts."""
    return max(1, _TOKENS_PER_BATCH // window_tokens)


def batch_windows(window_tokens: int, vocab: int) -> int:
    """Windows of a batch whose logits are computed at once: 4096 tokens, or fewer where these would exceed 256 MiB."""
    return max(1, min(body_windows(window_tokens), _LOGITS_LIMIT_BYTES // (4 * vocab * window_tokens)))


@dataclass(frozen=True)
class RoundWork:
    """The work of a round of measurements, in windows through one layer: a progress bar's length, in which all items of a
    profile count the same.
    """

    windows: int
    ticks: int
    """How often a batch runs through a layer meanwhile."""
    heads: float
    """The vocabulary's part of ``windows``: as much as everything else together where it has 262,144 words."""


def round_work(
    layer: LayerNeeds,
    cuts_by_block: Mapping[int, Sequence[Cut]],
    reference: Mapping[int, int | None] | None = None,
) -> RoundWork:
    """The work of measuring these cuts on these blocks, the vocabulary's product of every model included.

    Args:
        reference: block -> how many layers the dense model runs through; those of others, or where it is None: all.
    """
    size = body_windows(layer.identity.document["solution"]["window_tokens"])
    layers, around = layer.geometry.layers, layer.identity.around is not None
    work, heads, ticks = 0.0, 0.0, 0
    for block, cuts in cuts_by_block.items():
        windows = layer.block_size(block)
        passes = layer_passes(
            layer.index, layers, len(cuts), 1, around=around, reference=(reference or {}).get(block)
        )
        heads += windows * (1 + len(cuts)) * head_layers(layer.geometry)
        work += windows * passes
        ticks += -(-windows // size) * passes
    return RoundWork(int(work + heads), ticks, heads)


def gradient_work(
    layer: LayerNeeds, block: int, layers: int, latent_ranks: Mapping[Latent, Sequence[int]]
) -> int:
    """The work of predicting the losses of so many layers on a block of windows, in windows through one layer.

    Args:
        layer: any of them.
        latent_ranks: the ranks at which queries or values of latents are predicted too.
    """
    around, all_layers = 1 + layer.effort.labels, layer.geometry.layers
    passes = around * (all_layers + head_layers(layer.geometry)) + made_again(all_layers)
    size = layer.identity.block_windows
    windows = min(size, layer.windows - block * size)
    return int(windows * (passes + layers * local_passes(layer, latent_ranks)))


def segment_layers(layers: int) -> int:
    """The layers of a segment, where states are kept before the first of each: as many as there are segments."""
    return isqrt(max(layers - 1, 0)) + 1


def made_again(layers: int) -> int:
    """The layers whose states are made a second time on the way back: those inside all segments but the last."""
    size = segment_layers(layers)
    return (-(-layers // size) - 1) * (size - 1)


def head_layers(geometry: Geometry) -> float:
    """The vocabulary's product, in products of a layer."""
    return geometry.vocab * geometry.hidden / sum(rows * columns for rows, columns in _shapes(geometry))


def _shapes(geometry: Geometry) -> list[tuple[int, int]]:
    return [shape for c in COMPONENTS for shape in geometry.matrices(c, geometry.full_rank(c))]


def local_passes(layer: LayerNeeds, latent_ranks: Mapping[Latent, Sequence[int]]) -> float:
    """The work of predicting one layer's losses beside gradients, in passes of its windows through it."""
    geometry, effort = layer.geometry, layer.effort
    return sum(
        _LOCAL_PASSES[c] * len(gradient_ranks(geometry, effort, c))
        for c in COMPONENTS
        if c not in geometry.fixed
    ) + sum(_LOCAL_PASSES[form] * len(ranks) for form, ranks in latent_ranks.items())
