"""The keys of a file beside its tokenizer: sizes, norms, windows and caps, as the graph's ``load_arch_hparams`` reads them."""

from __future__ import annotations

from typing import Any

from gguf import MODEL_ARCH, GGUFWriter

from solvers.errors import UnsupportedModelError
from solvers.gguf.architectures import GEMMAS, Shape

_ACTIVATIONS = {False: ("silu", "swish"), True: ("gelu_pytorch_tanh",)}
_LARGEST = {MODEL_ARCH.GEMMA2: 46, MODEL_ARCH.GEMMA3: 62}
"""Numbers of layers for which llama.cpp takes hidden / heads instead of the head's size: the models of 27 billion."""


def check_config(config: Any, shape: Shape) -> None:
    """Refuse what the graph computes in another way.

    Raises:
        UnsupportedModelError: says what.
    """
    gemma = shape.family in GEMMAS
    key = "hidden_activation" if shape.family in ("gemma2", "gemma3_text") else "hidden_act"
    if getattr(config, key) not in _ACTIVATIONS[gemma]:
        supported = " or ".join(_ACTIVATIONS[gemma])
        raise UnsupportedModelError(
            f"gguf: {key} is {getattr(config, key)!r}; llama.cpp computes {supported}"
        )
    if len({window for window in shape.windows if window}) > 1:
        raise UnsupportedModelError(f"gguf: windows of {sorted(set(shape.windows))}; llama.cpp has one size")
    if shape.family == "gemma2":
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if getattr(config, key) is None:
                raise UnsupportedModelError(f"gguf: {key} is not set; llama.cpp caps every Gemma 2")
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModelError("gguf: use_bidirectional_attention is set; llama.cpp's Gemma 3 is causal")
    bits = [f"{c}_bits" for c in ("qk", "ov", "mlp") if any(getattr(config, f"{c}_bits", None) or ())]
    if bits:
        raise UnsupportedModelError(
            f"gguf: {bits[0]} are torchao's, which llama.cpp does not read; plan without --bits and take model-q8_0.gguf"
        )


def query_factor(config: Any, shape: Shape, architecture: MODEL_ARCH) -> float:
    """The factor of queries with which the graph's own scale of scores is the checkpoint's."""
    width = shape.head_dim
    if _LARGEST.get(architecture) == config.num_hidden_layers:
        width = shape.hidden // shape.heads
    return float(shape.scaling * width**0.5)


def add_hyperparameters(writer: GGUFWriter, config: Any, shape: Shape, architecture: MODEL_ARCH) -> None:
    """Write them, but for those of rotary positions."""
    # step35 insists on a layer with a window. Where there is none, a last one that would draft tokens says that it had one: it
    # has no tensors, which is allowed, and is neither run nor given a cache (``nextn_flags`` in src/llama-model.cpp).
    drafting = architecture is MODEL_ARCH.STEP35 and not any(shape.windows)
    writer.add_block_count(config.num_hidden_layers + drafting)
    if drafting:
        writer.add_nextn_predict_layers(1)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(shape.hidden)
    writer.add_vocab_size(config.vocab_size)
    # The graphs that know one length take a number; an array would be read, and all but its first entry forgotten.
    writer.add_feed_forward_length(shape.mlp[0] if len(set(shape.mlp)) == 1 else list(shape.mlp))
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.ov)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if any(shape.windows) or architecture in (MODEL_ARCH.STEP35, MODEL_ARCH.GEMMA2):
        writer.add_sliding_window(max(shape.windows) or config.max_position_embeddings)
        writer.add_sliding_window_pattern([*(window > 0 for window in shape.windows), *[True] * drafting])
    if architecture is MODEL_ARCH.STEP35:
        writer.add_expert_feed_forward_length(0)  # read by every file of it
    if shape.family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)
