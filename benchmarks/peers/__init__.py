"""Other people's compressors, implemented from their papers as strong as their authors made them.

    compress(model, windows, keep) -> (model, accounting)

``model`` is a stock transformers causal model (Llama, Qwen2, Mistral, Gemma 3, GPT-2, GPT-NeoX, OPT), left unchanged; a
compressed copy comes back. ``windows`` (W, T) are calibration token ids; ``keep`` is the fraction of block parameters (of KV
elements in ``KV_PEERS``) that may be stored, never exceeded. Everything is deterministic on one machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers import asvd, kfac, kv, lems, low_rank, modegpt, pruning, slicegpt, svd_llm, zero_sum
from benchmarks.peers.blocks import Accounting

Compress = Callable[[Any, torch.Tensor, float], tuple[Any, Accounting]]

PEERS: dict[str, Compress] = {
    "svd": low_rank.svd,
    "asvd": asvd.asvd,
    "asvd_strs": asvd.asvd_strs,
    "svd_llm_w": svd_llm.svd_llm_w,
    "svd_llm": svd_llm.svd_llm,
    "svd_llm_v2": svd_llm.svd_llm_v2,
    "kfac_svd": kfac.kfac_svd,
    "lems": lems.lems,
    "zs_svd": zero_sum.zs_svd,
    "zs_svd_stages": zero_sum.zs_svd_stages,
    "magnitude": pruning.magnitude,
    "wanda": pruning.wanda,
    "wanda_vo": pruning.wanda_vo,
    "slicegpt": slicegpt.slicegpt,
    "modegpt_uniform": modegpt.modegpt_uniform,
    "modegpt": modegpt.modegpt,
}
KV_PEERS: dict[str, Compress] = {"palu_uniform": kv.palu_uniform, "palu": kv.palu, "clover": kv.clover}

__all__ = ["KV_PEERS", "PEERS", "Accounting", "Compress"]
