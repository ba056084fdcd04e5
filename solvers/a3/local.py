"""Effects of a cut at its own place: the error of o_proj's or down_proj's output on dense inputs, no later layer involved.

The error of an MLP cut needs the neurons' activations alone, that of an OV cut the values as they enter o_proj; a QK cut,
queries of a latent and joint values change the attention itself, which is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from solvers.a3.compress import LayerSolution, Part
from solvers.a3.ov_joint import OVJoint
from solvers.checkpoints.writing import stored
from solvers.model.inside import run_layer
from solvers.model.surgery import OpenModel


def place(component: Part) -> str:
    """Behind which of a layer's two parts a cut shows, as ``solvers.model.inside.run_layer`` names their outputs."""
    return "mlp" if component == "mlp" else "attention"


@dataclass(frozen=True)
class Inside:
    """One dense layer on one batch (B, T, D), as ``solvers.model.inside.run_layer`` caught it."""

    caught: dict[str, Any]

    @classmethod
    def of(cls, opened: OpenModel, index: int, hidden: torch.Tensor, call: dict[str, Any]) -> Inside:
        return cls(run_layer(opened, index, hidden, call))

    def output(self, component: Part) -> torch.Tensor:
        """(B, T, D) of the projection that a cut of this component changes."""
        output: torch.Tensor = self.caught[place(component)]
        return output.detach()


@torch.no_grad()
def errors(
    opened: OpenModel,
    index: int,
    batches: Sequence[Inside],
    solution: LayerSolution,
    component: Part,
    rank: int,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """Output of the cut layer minus that of the dense one at the component's own projection, (B, T, D) for each batch.

    Args:
        dtype: the checkpoint's type, through which the cut weights pass first. (The product of value projection and basis is
            not rounded: values are taken as they are.)
    """
    weights = stored(solution.compressed(**{component: rank}), dtype)
    if component in ("qk", "latent", "joint"):
        opened.put(index, weights)
        try:
            attention = opened.attention(index)
            outputs = []
            for inside in batches:
                args, kwargs = inside.caught["attention_call"]
                outputs.append(attention(*args, **kwargs)[0] - inside.output(component))
            return outputs
        finally:
            opened.reset(index)
    if component == "ov":
        plain = solution.ov.bases if isinstance(solution.ov, OVJoint) else solution.ov
        bases = plain.to_value_Khh[..., :rank]
        group = weights.heads // weights.kv_heads
        down_Hhr = bases.repeat_interleave(group, dim=0).to(batches[0].caught["z"].dtype)
        flat, bias = weights.o_HrD.flatten(0, 1), weights.o_bias_D
        inputs = [
            torch.einsum(
                "...hi,hir->...hr", inside.caught["z"].detach().unflatten(-1, (weights.heads, -1)), down_Hhr
            ).flatten(-2)
            for inside in batches
        ]
    else:
        order = solution.mlp.order_m[:rank].sort().values
        flat, bias = weights.down_mD, weights.down_bias_D
        inputs = [inside.caught["x"].detach()[..., order] for inside in batches]
    flat = flat.to(batches[0].caught["in"].dtype)
    outputs = [states @ flat for states in inputs]
    if bias is not None:
        outputs = [output + bias for output in outputs]
    return [output - inside.output(component) for output, inside in zip(outputs, batches, strict=True)]
