"""KL of a model in training to its teacher, and its gradients, from the logits of a few tokens at a time.

With 262,144 words the logits of a window of 256 tokens are a quarter GiB, and half a dozen tensors of that size exist where
two such are compared and differentiated. So the last hidden states are where a step is divided: the gradient there is summed
over slices of tokens, and goes back through the layers once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from solvers.families import FAMILIES

_LOGITS_LIMIT_BYTES = 64 << 20
"""Logits of one slice of tokens."""
_LEAST_TOKENS = 64
"""The head is read whole for every slice, so a slice has so many tokens whatever their logits take."""
_ACTIVATIONS_LIMIT_BYTES = 1 << 30
"""Activations that a part of a step holds for its way back, as estimated: one window's at least."""
_NUMBERS = 24
"""Activations of one layer for one token, in widths of the model: an MLP of four widths and attention over some 256 tokens."""


class Predictor(Protocol):
    """A causal model in two halves."""

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """What ``head`` takes, (B, T, D), of token ids (B, T)."""
        ...

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of states (..., D)."""
        ...


class Halves:
    """A causal model of transformers as a `Predictor`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._family = FAMILIES[model.config.model_type.removeprefix("rankalloc_")]

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """The last hidden states behind the last norm."""
        states: torch.Tensor = self._model.base_model(ids, use_cache=False).last_hidden_state
        return states

    def head(self, states: torch.Tensor) -> torch.Tensor:
        return self._family.head(self._model, states)


def kl_nats(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of KL(softmax(reference) ‖ softmax(logits)), (..., V) each, as one float32 scalar with gradient."""
    log_p, log_q = reference.float().log_softmax(-1), logits.float().log_softmax(-1)
    return nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)


def backward(dense: Predictor, model: Any, batch: torch.Tensor) -> float:
    """Add gradients of the batch's mean KL per token to the parameters of ``model``, and return that mean.

    Args:
        batch: (B, T) token ids.
    """
    student, total = Halves(model), 0.0
    reduced = torch.autocast(model.device.type, torch.bfloat16, enabled=_has_bfloat16(model.device))
    for part in parts(model, batch):
        with torch.no_grad():
            expected = dense.states(part).flatten(0, 1)
        with reduced:
            states = student.states(part).flatten(0, 1)
        # The head's products see a copy that is cut off from the layers: its gradient gathers here, slice by slice.
        leaf = states.detach().requires_grad_(True)
        for tokens in slices(model, len(leaf)):
            with torch.no_grad():
                reference = dense.head(expected[tokens])
            with reduced:
                logits = student.head(leaf[tokens])
            loss = kl_nats(reference, logits) / batch.numel()
            loss.backward()
            total += float(loss.detach())
        states.backward(leaf.grad)
    return total


@torch.no_grad()
def mean_kl(dense: Predictor, model: Any, windows: torch.Tensor, batch_windows: int) -> float:
    """Mean KL over windows (W, T) in nats/token."""
    student, total = Halves(model), 0.0
    for batch in windows.split(batch_windows):
        for part in parts(model, batch):
            expected, states = dense.states(part).flatten(0, 1), student.states(part).flatten(0, 1)
            for tokens in slices(model, len(states)):
                total += float(kl_nats(dense.head(expected[tokens]), student.head(states[tokens])))
    return total / windows.numel()


def parts(model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Windows of a batch that go through the layers together."""
    config = model.config
    of_token = 4 * _NUMBERS * config.hidden_size * config.num_hidden_layers
    return batch.to(model.device).split(max(1, _ACTIVATIONS_LIMIT_BYTES // (of_token * batch.shape[1])))


def slices(model: Any, tokens: int) -> Iterator[slice]:
    """Slices of so many tokens whose logits exist at once, in order."""
    size = max(_LEAST_TOKENS, _LOGITS_LIMIT_BYTES // (4 * model.config.vocab_size))
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16"))
