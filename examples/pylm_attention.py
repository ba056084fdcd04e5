"""The attention the example models are trained with: the CPU kernel's result, in less time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

QUERY_BLOCKS = 4  # see blocked_attention
SCORE_LIMIT = 60.0  # attention scores are clamped to +-this, where exp() is still exact in float32


def blocked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float = 1.0,
    **unused: object,
) -> tuple[Tensor, None]:
    """Causal softmax attention as plain matrix products that `torch.compile` fuses well.

    query (batch, heads, length, size); key and value (batch, groups, length, size); the result is
    (batch, length, heads, size).  The CPU kernel behind `scaled_dot_product_attention` took half of
    a training step for these shapes.  Here each block of queries meets only the keys it may see, the
    exponentials need no row maximum (the scores are clamped), and a column of ones appended to the values
    gives the normaliser in the same product.
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    step = length // QUERY_BLOCKS
    outputs = []
    with torch.autocast("cpu", enabled=False):
        query, key, value = (t.to(torch.bfloat16) for t in (query * scaling, key, value))
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
        for begin in range(0, length, step):
            end = begin + step
            rows = query[:, :, begin:end].reshape(batch * groups, heads // groups * step, size)
            columns = key[:, :, :end].reshape(batch * groups, end, size)
            scores = (rows @ columns.transpose(1, 2)).view(batch, heads, step, end)
            visible = torch.arange(begin, end)[:, None] >= torch.arange(end)[None]
            raised = torch.exp(scores.float().clamp(-SCORE_LIMIT, SCORE_LIMIT))
            weights = torch.where(visible, raised, 0.0).to(torch.bfloat16).view(batch * groups, -1, end)
            mixed = weights @ value[:, :, :end].reshape(batch * groups, end, size + 1)
            mixed = mixed.view(batch, heads, step, size + 1).float()
            outputs.append((mixed[..., :size] / mixed[..., size:]).to(torch.bfloat16))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def use_blocked_attention(model: PreTrainedModel) -> None:
    """Make the model use `blocked_attention`, which needs no mask from the library."""
    AttentionInterface.register("blocked", blocked_attention)
    AttentionMaskInterface.register("blocked", lambda *args, **kwargs: None)
    model.set_attn_implementation("blocked")
