"""The effect of a layer's queries on the attention's output: the derivative that ``queries`` judges errors of queries by."""

from __future__ import annotations

from typing import Any

import torch


def query_effects(attention: Any, args: Any, kwargs: dict[str, Any], seed: int) -> torch.Tensor:
    """J_m' z of every token, (B, T, H h), for one draw of signs z.

    Args:
        attention: a layer's attention module, called with ``args`` and ``kwargs``.
    """
    caught: dict[str, torch.Tensor] = {}

    def own(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        caught["query"] = output.detach().requires_grad_(True)
        return caught["query"]

    handle = attention.q_proj.register_forward_hook(own)
    try:
        with torch.enable_grad():
            output = attention(*args, **kwargs)[0]
    finally:
        handle.remove()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
    (effects,) = torch.autograd.grad(output, caught["query"], signs)
    return effects
