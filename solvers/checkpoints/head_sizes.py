"""The size per head of a serving engine's cache, and what the config of a compact checkpoint says of it.

vLLM keeps keys and values of one layer in heads of one size, which may differ from layer to layer, and its kernels take some
sizes only. It reads the size of layer ``l`` as ``config.per_layer_config[l].head_dim`` (transformers >= 5.16). Inside the model
queries, keys and values are padded to it; the checkpoint's tensors are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""All that vLLM's kernel for CPUs takes (0.32: ``v1/attention/backends/cpu_attn.py``). Each is a multiple of 8."""

Rule = Callable[[int], int]
"""Rank -> the smallest size of an engine that holds it."""


def everywhere(rank: int) -> int:
    """The smallest size that all kernels take which serve unequal layers: those for CPUs have the fewest. The rank itself where
    none does.
    """
    return next((size for size in CPU_HEAD_SIZES if size >= rank), rank)


def per_layer_config(
    qk_ranks: Sequence[int], ov_ranks: Sequence[int], rule: Rule, windows: Sequence[int] = ()
) -> dict[int, dict[str, int]]:
    """Layer -> the ``head_dim`` of its cache, for ``config.per_layer_config``.

    Args:
        windows: of every layer, 0 for none. Where they differ all layers take the largest size: vLLM keeps unlike windows in
            blocks of one size anyway, and its kernel for CPUs does not read those of smaller heads as they are (0.32).
    """
    sizes = [rule(max(pair)) for pair in zip(qk_ranks, ov_ranks, strict=True)]
    if len(set(windows)) > 1:
        sizes = [max(sizes)] * len(sizes)
    return {layer: {"head_dim": size} for layer, size in enumerate(sizes)}
