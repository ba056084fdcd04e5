"""Phases of training, and the one that starts an MLP afresh which a trained model does not use.

In both examples layer 1's MLP fell asleep: its last matrix started at zero, behind an MLP that does
most of the work, and the gain of its norm shrank; started afresh in the same way it stayed asleep.
So a restart here has three parts: matrices large enough that the output is not a product of small
numbers, a norm gain that cannot fall, and a while in which this MLP is all that may learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from evaluate_pylm import blocks_of, zeroed
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

WARMUP = 0.02  # share of the minutes in which the learning rates rise
WAKE_SHARE = 0.27  # of the minutes of a continuation, in which the restarted MLP is trained alone
DOWN_SCALE = 0.2  # of the last matrix, against one that keeps the size of its input


@dataclass(frozen=True)
class Phase:
    """A stretch of training: learning rates rise quickly to `peak` and end at zero."""

    minutes: float
    peak: float = 1.0  # factor on the learning rates in `train_pylm`
    decay: float = 0.6  # share of the minutes in which they fall to zero

    def rate(self, progress: float) -> float:
        """Return the factor on the learning rates after `progress` (0 to 1) of the minutes."""
        return self.peak * max(0.0, min(1.0, progress / WARMUP + 0.01, (1.0 - progress) / self.decay))


def wake_phases(minutes: float) -> tuple[Phase, Phase]:
    """Return the phases of a continuation: the restarted MLP alone, then everything.

    Both stay below the rates of a training from nothing, which would undo what was learned.
    """
    alone = WAKE_SHARE * minutes
    return Phase(alone, peak=0.5, decay=1.0), Phase(minutes - alone, peak=0.35, decay=1.0)


def norm_of(model: PreTrainedModel, layer: int) -> nn.Module:
    """Return the norm before the MLP of a layer."""
    if model.config.model_type == "llama":
        return model.model.layers[layer].post_attention_layernorm
    return model.transformer.h[layer].ln_2


def restart_mlps(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Give the MLPs of `layers` new random weights and their norms gain 1, and freeze all but these MLPs.

    The new output is small, so the model starts almost as good as it was, but not zero: with a zero
    last matrix the first ones would have no gradient.
    """
    model.requires_grad_(False)
    for layer in layers:
        norm = norm_of(model, layer)
        for name, parameter in norm.named_parameters():
            nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
        for name, parameter in blocks_of(model)[f"MLP {layer}"].named_parameters():
            parameter.requires_grad_(True)
            if parameter.ndim < 2:
                nn.init.zeros_(parameter)
                continue
            last = "down_proj" in name or "c_proj" in name
            inputs = parameter.shape[0 if model.config.model_type == "gpt2" else 1]
            nn.init.normal_(parameter, std=(DOWN_SCALE if last else 1.0) * inputs**-0.5)


def mute_mlps(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Zero the MLPs of `layers`, which leaves their work to be learned anew."""
    for layer in layers:
        for parameter in blocks_of(model)[f"MLP {layer}"].parameters():
            nn.init.zeros_(parameter)


def train_all_but_norms(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Unfreeze everything except the norms before the MLPs of `layers`, whose gains must not fall again."""
    model.requires_grad_(True)
    for layer in layers:
        norm_of(model, layer).requires_grad_(False)


@torch.no_grad()
def zeroing_cost(model: PreTrainedModel, layer: int, samples: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the nats per token that zeroing the MLP of `layer` adds on batches of (inputs, targets)."""

    def loss() -> float:
        total = 0.0
        for inputs, targets in samples:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(input_ids=inputs, use_cache=False).logits
            total += functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()).item()
        return total / len(samples)

    whole = loss()
    hook = blocks_of(model)[f"MLP {layer}"].register_forward_hook(zeroed)
    without = loss()
    hook.remove()
    return without - whole
