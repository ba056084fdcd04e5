"""Healing: a short distillation of the cut model toward its dense source. Closed form first, then a few minutes of this.

The loss is KL(dense ‖ compressed) in nats/token on calibration *fit* windows, no labels: what was cut is asked to say what the
dense model says. Shapes, embeddings, norms and head stay as they are; only linear layers inside decoder blocks move.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from solvers.families import FAMILIES
from solvers.healing.distance import Predictor, backward, mean_kl
from solvers.healing.heal_state import Check, HealState

_REACH = 0.24
"""`default_learning_rate` of a model of one layer and one channel."""
_WARMUP_SHARE = 0.1
_CLIP_NORM = 1.0
_CHECKS = 10


@dataclass(frozen=True)
class HealRecord:
    """One healing's outcome. Both KLs, in nats/token, are over the same windows: validation, or else the first fit windows."""

    steps: int
    learning_rate: float
    seconds: float
    """Duration, over all attempts where the healing was resumed."""
    first_kl: float
    """KL before the first step."""
    last_kl: float
    """KL of the weights that were kept."""
    kept_step: int
    """The step whose weights were kept: the last, or with validation the best; 0 means that nothing was gained."""
    checks: tuple[Check, ...]
    """Measurements along the way, step 0 first."""


def default_learning_rate(config: Any) -> float:
    """Peak rate for a model of this width d and depth L, in units of each tensor's own root mean square: 0.24 / (sqrt(d) L).

    A step of Adam's moves all weights of a matrix by as much. What that does to the output adds up over d inputs, where the
    weights themselves add up to sqrt(d) of one, and over L layers (the width as in Yang et al., arXiv 2203.03466). Measured: on
    six models with d of 64 and 128 and L of 2 to 6 half and twice of 0.005 are as good; with d = 576 and L = 30, where this is
    0.00033, 0.005 makes KL 2.6 times larger within ten steps, and 0.001 loses too.
    """
    return _REACH / (math.sqrt(config.hidden_size) * config.num_hidden_layers)


def trained_parameters(model: Any) -> list[nn.Parameter]:
    """Weights and biases of the linear layers inside every decoder block (training the norms too changed nothing)."""
    family = FAMILIES[model.config.model_type.removeprefix("rankalloc_")]
    linears = (module for module in family.layers(model).modules() if isinstance(module, nn.Linear))
    return [parameter for linear in linears for parameter in linear.parameters()]


def heal(
    dense: Predictor,
    compressed: Any,
    windows: torch.Tensor,
    *,
    steps: int,
    learning_rate: float | None = None,
    batch_windows: int = 8,
    seed: int = 0,
    validation: torch.Tensor | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_check: Callable[[HealState], None] | None = None,
    resumed: HealState | None = None,
) -> HealRecord:
    """Train ``compressed`` in place toward ``dense``: AdamW without weight decay, linear warm-up over a tenth of the steps,
    cosine decay to zero, gradients clipped to norm 1, dropout off. Weights are float32; where the device multiplies in bfloat16
    steps do (a third less time on such a CPU), and what is measured along the way does not.

    With little text the last weights need not be the best. Rule: with ``validation`` the KL there is measured before the first
    step and ten times along the way, and the weights with the least are kept, the untouched ones included. Validation windows
    must be disjoint from ``windows``, and from anything that the result is judged by.

    If anything raises, ``on_step`` or a KeyboardInterrupt included, all weights are as they were before the call: there is no
    half-healed model. Gradients are gone and ``requires_grad`` and training mode restored either way. The same seed gives the
    same weights to the bit on one CPU configuration, resumed or not; CUDA kernels do not promise it.

    Args:
        dense: on the same device as ``compressed``; a model of transformers as ``solvers.healing.distance.Halves`` of it.
        learning_rate: at its peak, in units of each tensor's root mean square; None: `default_learning_rate`.
        windows: fit windows (W, T) of token ids; never measure or evaluation windows. Visited in shuffled rounds.
        batch_windows: windows per step; layers and vocabulary run in parts of their own (``solvers.healing.distance``).
        on_step: called after every step with (done, total, KL of that step's batch before its update); raise in it to cancel.
        on_check: called with what was reached after each check but the last: write it to go on from there. Its tensors are
            those in use, valid during the call.
        resumed: what an earlier call with the same arguments and the same untouched ``compressed`` had reached.

    Raises:
        ValueError: no steps, no windows, weights not in float32, or a loss that is not finite (lower ``learning_rate``).
    """
    parameters = trained_parameters(compressed)
    if steps < 1 or not len(windows) or batch_windows < 1:
        raise ValueError(
            f"healing needs steps, windows and a batch: got {steps}, {len(windows)}, {batch_windows}"
        )
    if wrong := {p.dtype for p in parameters} - {torch.float32}:
        raise ValueError(f"healing trains float32 weights, not {wrong}: load with dtype=torch.float32")
    if learning_rate is None:
        learning_rate = default_learning_rate(compressed.config)
    started = time.perf_counter() - (resumed.seconds if resumed else 0.0)
    judged = windows[:batch_windows] if validation is None else validation
    flags = {parameter: parameter.requires_grad for parameter in compressed.parameters()}
    training = compressed.training
    untouched = _copy(parameters)
    try:
        compressed.eval().requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        groups = [{"params": [tensor], "peak": learning_rate * _scale(tensor)} for tensor in parameters]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        if resumed is None:
            first = Check(0, mean_kl(dense, compressed, judged, batch_windows))
            state = HealState(
                0.0, (first,), kept_step=0, kept_weights=untouched, weights=parameters, moments=()
            )
        else:
            state = resumed.into(parameters, optimizer)
        batches = _batches(windows, batch_windows, steps, seed)
        for step, batch in enumerate(islice(batches, state.step, None), start=state.step + 1):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(step, steps)
            optimizer.zero_grad()
            loss = backward(dense, compressed, batch)
            nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
            if not math.isfinite(loss):
                raise ValueError(
                    f"healing diverged at step {step}; try a learning_rate below {learning_rate:g}"
                )
            optimizer.step()
            if step == steps or (validation is not None and step % max(1, steps // _CHECKS) == 0):
                check = Check(step, mean_kl(dense, compressed, judged, batch_windows))
                better = validation is None or check.kl_nats < state.best.kl_nats
                moments = [optimizer.state[parameter] for parameter in parameters]
                kept_weights = _copy(parameters) if better else None
                state = state.after(check, time.perf_counter() - started, moments, kept_weights)
                if on_check is not None and step < steps:
                    on_check(state)
            if on_step is not None:
                on_step(step, steps, loss)
        _restore(parameters, state.kept_weights)
    except BaseException:
        _restore(parameters, untouched)
        raise
    finally:
        compressed.train(training).zero_grad()
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    seconds = time.perf_counter() - started
    first_kl, best = state.checks[0].kl_nats, state.best
    return HealRecord(steps, learning_rate, seconds, first_kl, best.kl_nats, best.step, state.checks)


def _scale(tensor: torch.Tensor) -> float:
    """Root mean square of a tensor's entries, at least 0.001. Adam's steps know nothing of the weights' size, in which the
    example models differ five-fold; one absolute rate that suits one model breaks another.
    """
    return max(1e-3, float(tensor.detach().square().mean().sqrt()))


def _schedule(step: int, steps: int) -> float:
    """Share of the peak rate at ``step`` of 1..``steps``."""
    warmup = max(1, round(_WARMUP_SHARE * steps))
    if step <= warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1))) / 2


def _batches(windows: torch.Tensor, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """``steps`` batches; every window is seen once before any is seen again."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-steps * size // len(windows))
    order = torch.cat([torch.randperm(len(windows), generator=generator) for _ in range(rounds)])
    for rows in order[: steps * size].split(size):
        yield windows[rows.to(windows.device)]


def _copy(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """On the CPU, where memory is cheaper."""
    return [parameter.detach().to("cpu", copy=True) for parameter in parameters]


@torch.no_grad()
def _restore(parameters: list[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
