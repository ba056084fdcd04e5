"""Which of llama.cpp's graphs computes what a checkpoint does, and in which sizes it is free.

    graph                  MLP rank      OV rank      what else it says
    a family's own         one           the dense    all that the family has
    deci                   by layer      the dense    Llama's layers; biases, no windows, no norms of heads
    openelm                by layer      the dense    norms of queries and keys; tied embeddings, no biases, no windows
    step35                 one           one          windows, norms of queries and keys, biases on q, k and v alone

Only these read the length of every layer's MLP (``hparams.n_ff(il)`` where tensors are made, ``src/models/*.cpp``): the
others make all layers' MLPs as long as the first one's, whatever array the file holds. Only step35 and mimo2 keep the size of
values apart from that of keys, without a ``GGML_ASSERT`` that both are equal. step35 is the one of them that has biases, norms
of heads and factors of rotary frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf import MODEL_ARCH

from solvers import modeling_rankalloc as modeling
from solvers.errors import UnsupportedModelError

OWN: dict[str, MODEL_ARCH] = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
    "gemma": MODEL_ARCH.GEMMA,
    "gemma2": MODEL_ARCH.GEMMA2,
    "gemma3_text": MODEL_ARCH.GEMMA3,
}
"""``model_type`` -> the family's own graph."""
GEMMAS = ("gemma", "gemma2", "gemma3_text")
INTERLEAVED = (MODEL_ARCH.LLAMA, MODEL_ARCH.DECI)
"""Graphs that rotate dimension 2j with 2j + 1 (``LLAMA_ROPE_TYPE_NORM``); the others j with j + P, as transformers does."""
FACTORED = (*INTERLEAVED, MODEL_ARCH.STEP35)
"""Graphs that read ``rope_freqs``."""
_WINDOWED = (MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3, MODEL_ARCH.STEP35)
_FREE_MLP = (MODEL_ARCH.DECI, MODEL_ARCH.OPENELM)
_BIASED = (*INTERLEAVED, MODEL_ARCH.QWEN2, MODEL_ARCH.STEP35)
"""Graphs that add biases of queries, keys and values; ``INTERLEAVED`` add those of outputs and MLPs too."""


@dataclass(frozen=True)
class Shape:
    """The facts that decide on a graph, read from a compact checkpoint's config or a source's."""

    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ov: int
    mlp: tuple[int, ...]
    windows: tuple[int, ...]
    """The window of every layer, 0 where it sees every position that the model was made for."""
    scaling: float
    qkv_bias: bool
    other_bias: bool
    """On outputs or in MLPs."""
    tied: bool


def shape_of(config: Any) -> Shape:
    """The shape of a compact config, or of a stock one, all of whose ranks are the dense ones.

    Raises:
        UnsupportedModelError: the family, or ranks that no graph has.
    """
    family = modeling.source_type(config)
    if family not in OWN:
        raise UnsupportedModelError(f"gguf: {family} models are not written; {', '.join(OWN)} are")
    layers, architecture = range(config.num_hidden_layers), modeling.ARCHITECTURES[family]
    assert architecture.mlp is not None
    attentions = [architecture.attention(config, layer) for layer in layers]
    first, mlp, dim = attentions[0], architecture.mlp(config), attentions[0]["head_dim"]
    _refuse_cut_qk(config, dim)
    ov = _common_rank("ov", getattr(config, "ov_ranks", None) or [dim])
    wide = config.max_position_embeddings
    windows = (options["sliding_window"] or 0 for options in attentions)
    return Shape(
        family=family,
        hidden=first["hidden_size"],
        heads=first["heads"],
        kv_heads=first["kv_heads"],
        head_dim=dim,
        ov=ov,
        mlp=tuple(getattr(config, "mlp_ranks", None) or [mlp["rank"]] * len(layers)),
        windows=tuple(0 if window >= wide else window for window in windows),
        scaling=first["scaling"],
        qkv_bias=first["qkv_bias"],
        other_bias=first["o_bias"] or mlp["inner_bias"] or mlp["down_bias"],
        tied=config.tie_word_embeddings,
    )


def architecture_of(shape: Shape) -> MODEL_ARCH:
    """The first graph that says all of it, the family's own before others.

    Raises:
        UnsupportedModelError: there is none; says what stands in the way.
    """
    reasons = []
    for architecture in _candidates(shape.family):
        reason = _against(architecture, shape)
        if reason is None:
            return architecture
        reasons.append(f"{architecture.name.lower()} {reason}")
    raise UnsupportedModelError(
        f"gguf: llama.cpp has no graph for this {shape.family} checkpoint: {'; '.join(reasons)}"
    )


def _candidates(family: str) -> tuple[MODEL_ARCH, ...]:
    if family in GEMMAS:
        return (OWN[family],)
    return OWN[family], MODEL_ARCH.OPENELM if family == "qwen3" else MODEL_ARCH.DECI, MODEL_ARCH.STEP35


def _against(architecture: MODEL_ARCH, shape: Shape) -> str | None:
    """Why the graph is not the checkpoint's, or None."""
    if shape.ov != shape.head_dim and architecture is not MODEL_ARCH.STEP35:
        return f"has values as wide as keys, {shape.head_dim} and not {shape.ov}"
    if len(set(shape.mlp)) > 1 and architecture not in _FREE_MLP:
        layer = next(index for index, rank in enumerate(shape.mlp) if rank != shape.mlp[0])
        return f"has one MLP rank, layer 0's is {shape.mlp[0]} and layer {layer}'s {shape.mlp[layer]}"
    if any(shape.windows) and architecture not in _WINDOWED:
        return "has no sliding windows"
    if shape.qkv_bias and architecture not in _BIASED:
        return "has no biases in attention"
    if shape.other_bias and architecture not in INTERLEAVED:
        return "has no biases on outputs or in MLPs"
    if not shape.tied and architecture in (MODEL_ARCH.GEMMA, MODEL_ARCH.GEMMA2, MODEL_ARCH.OPENELM):
        return "takes its head from its embeddings, which are not tied here"
    if architecture is MODEL_ARCH.QWEN2 and shape.heads * shape.head_dim != shape.hidden:
        return f"has heads of {shape.hidden // shape.heads}, not of {shape.head_dim}"
    return None


def _refuse_cut_qk(config: Any, head_dim: int) -> None:
    for layer, (rank, pairs) in enumerate(
        zip(getattr(config, "qk_ranks", ()), getattr(config, "qk_pairs", ()), strict=True)
    ):
        if rank != head_dim or 2 * pairs != head_dim:
            raise UnsupportedModelError(
                f"gguf: layer {layer} qk has rank {rank} of {head_dim}; llama.cpp rotates every head by the same frequencies,"
                " so QK stays dense: --pin '*.qk=dense'"
            )


def _common_rank(component: str, ranks: Sequence[int]) -> int:
    """The rank of all layers."""
    if len(set(ranks)) > 1:
        layer = next(index for index, rank in enumerate(ranks) if rank != ranks[0])
        raise UnsupportedModelError(
            f"gguf: layer {layer} {component} has rank {ranks[layer]}, layer 0 {ranks[0]}; a file of llama.cpp has one for all"
            f" layers: --tie {component}"
        )
    return ranks[0]
