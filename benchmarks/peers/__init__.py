"""Other people's compressors, implemented from their papers as strong as their authors made them.

    compress(model, windows, keep) -> (model, accounting)

``model`` is a stock transformers causal model (Llama, Qwen2, Mistral, GPT-2, GPT-NeoX, OPT), left unchanged; a compressed copy
comes back. ``windows`` (W, T) are calibration token ids; ``keep`` is the fraction of block parameters (of KV elements in
``KV_PEERS``) that may be stored, never exceeded. Everything is deterministic on one machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.asvd import asvd, asvd_strs
from benchmarks.peers.blocks import Accounting
from benchmarks.peers.kv import clover, palu, palu_uniform
from benchmarks.peers.low_rank import svd
from benchmarks.peers.modegpt import modegpt, modegpt_uniform
from benchmarks.peers.pruning import magnitude, wanda
from benchmarks.peers.slicegpt import slicegpt
from benchmarks.peers.svd_llm import svd_llm, svd_llm_w

Compress = Callable[[Any, torch.Tensor, float], tuple[Any, Accounting]]

PEERS: dict[str, Compress] = {
    "svd": svd,
    "asvd": asvd,
    "asvd_strs": asvd_strs,
    "svd_llm_w": svd_llm_w,
    "svd_llm": svd_llm,
    "magnitude": magnitude,
    "wanda": wanda,
    "slicegpt": slicegpt,
    "modegpt_uniform": modegpt_uniform,
    "modegpt": modegpt,
}
KV_PEERS: dict[str, Compress] = {"palu_uniform": palu_uniform, "palu": palu, "clover": clover}

__all__ = ["KV_PEERS", "PEERS", "Accounting", "Compress"]
