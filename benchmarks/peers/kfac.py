"""KFAC-SVD (Thoma et al., ICML 2026, "Advancing SVD-based LLM Compression via Layer-Wise Error Model Search").

Every matrix is truncated in the metric of a Kronecker-factored Fisher, tr(E A E' G) for an error E, with A = E[xx'] of its
input and G = sum gg' of the loss's gradients at its output, token by token: a sum over tokens has full rank where a sum over
sequences has not. Read in the authors' code (github.com/lems-svd/lems: compression/factorization/kfac_svd.py, _interface.py).

One difference: with G = R R' the code takes the SVD of R W S, which is the metric R'R and not G. Here it is R' W S.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from benchmarks.peers.blocks import Accounting, Slot, Work
from benchmarks.peers.budget import factor_ranks
from benchmarks.peers.moments import BACKWARD_WINDOWS, collect, copied
from benchmarks.peers.once import once
from benchmarks.peers.spectra import Key, Spectra, put_ranks, spectra

EDGE = 0.125
"""Share of a window's tokens whose gradients are left out, at either end."""
LEAST_NORM, MOST_NORM = 0.1, 10.0
"""A token's gradient is scaled to between these multiples of the window's mean norm."""
INPUT_SHRINKAGE, OUTPUT_SHRINKAGE = 0.1, 0.3
_SILENT = 1e-10


def clipped(gradients: torch.Tensor) -> torch.Tensor:
    """(B, T, n) gradients of tokens with norms within ``LEAST_NORM`` and ``MOST_NORM`` of the mean over the window; zero stays
    zero.
    """
    norms = gradients.norm(dim=2, keepdim=True)
    heard = norms >= _SILENT
    mean = (norms * heard).sum(1, keepdim=True) / heard.sum(1, keepdim=True).clamp_min(1)
    mean = mean.clamp_min(_SILENT)
    target = norms.clamp(min=LEAST_NORM * mean, max=MOST_NORM * mean)
    return gradients * torch.where(heard, target / norms.clamp_min(_SILENT), 1.0)


def shrunk_root(second: torch.Tensor, share: float) -> torch.Tensor:
    """Lower Cholesky factor of (1 - share) M + share mean(diag M) I."""
    mixed = (1 - share) * second
    level = second.diagonal().mean().clamp_min(torch.finfo(second.dtype).tiny)
    mixed.diagonal().add_(share * level)
    return torch.linalg.cholesky(mixed)


def output_moments(model: Any, windows: torch.Tensor) -> dict[Key, torch.Tensor]:
    """G (out, out) of every matrix: one backward pass of the summed cross entropy, of which no weight needs a gradient."""
    work = Work(copied(model))
    moments: dict[Key, torch.Tensor] = {}
    of_module: dict[Any, list[tuple[Key, Slot]]] = {}
    for index, name, slot in work.matrices():
        of_module.setdefault(slot.module, []).append(((index, name), slot))

    def add(parts: list[tuple[Key, Slot]], gradient: torch.Tensor) -> None:
        by_window = gradient.unflatten(0, (-1, windows.shape[1])) if gradient.ndim == 2 else gradient
        edge = int(EDGE * windows.shape[1])
        for key, slot in parts:
            own = by_window if slot.rows is None else by_window[..., slot.rows]
            flat = clipped(own[:, edge : own.shape[1] - edge]).flatten(0, 1)
            outer = flat.T @ flat
            moments[key] = moments[key] + outer if key in moments else outer

    def watch(parts: list[tuple[Key, Slot]]) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda gradient: add(parts, gradient))

        return hook

    work.model.requires_grad_(False)
    work.model.get_input_embeddings().register_forward_hook(lambda module, args, out: out.requires_grad_())
    for module, parts in of_module.items():
        module.register_forward_hook(watch(parts))
    for part in windows.split(BACKWARD_WINDOWS):
        logits = work.model(part, use_cache=False).logits[:, :-1]
        functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").backward()
    return moments


def kfac(model: Any, windows: torch.Tensor) -> Spectra:
    """All matrices in the metric of both sides."""

    def make() -> Spectra:
        outputs, moments = output_moments(model, windows), collect(model, windows)
        return spectra(
            model,
            lambda index, kind: shrunk_root(moments[index][kind].second, INPUT_SHRINKAGE),
            lambda key: shrunk_root(outputs.pop(key).double(), OUTPUT_SHRINKAGE),
        )

    result: Spectra = once("kfac", model, windows, make)
    return result


def kfac_svd(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """KFAC-SVD at one ratio for all matrices."""
    work, dense = Work(copied(model)), Work(model)
    if keep < 1:
        put_ranks(work, dense, kfac(model, windows), factor_ranks(work, keep))
    return work.model, work.accounting()
