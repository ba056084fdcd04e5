"""SliceGPT (Ashkboos et al., ICLR 2024, arXiv 2401.15024): the residual stream rotated by PCA at every block and sliced.

By the paper's computational invariance LayerNorm is mean subtraction plus RMSNorm, and RMSNorm (its divisor stays the full
width) commutes with rotations. A sliced stream x Q_k is then the same function as the projected stream x Q_k Q_k' in the
old basis, which is what runs here; counted are the sliced matrices and the k x k adapters on the residual branches.

The PCA is of the stream as it enters a norm, as in the authors' code (the paper's text has it normalised, which was up to 5 %
better on one model here and up to 6 % worse on another).
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.blocks import SHRINKING_BIAS, Accounting, Block, Work
from benchmarks.peers.budget import target
from benchmarks.peers.moments import copied
from benchmarks.peers.stream import Stream


class Slicer:
    """Projections of one block's residual stream, where it enters (``enter``) and between attention and MLP (``middle``)."""

    def __init__(self, block: Block, *, centred: bool, parallel: bool) -> None:
        self.block, self.centred, self.parallel = block, centred, parallel
        self.enter: torch.Tensor | None = None
        self.middle: torch.Tensor | None = None
        self.gram = torch.zeros(())
        self._hidden = torch.zeros(())
        block.layer.register_forward_pre_hook(self._before, with_kwargs=True)
        if not parallel:
            block.attention.register_forward_hook(self._between)

    def _centre(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden - hidden.mean(-1, keepdim=True) if self.centred else hidden

    def _pass(self, hidden: torch.Tensor, projection: torch.Tensor | None) -> torch.Tensor:
        if projection is None:
            flat = hidden.double().flatten(0, -2)
            self.gram = self.gram + flat.T @ flat
            return hidden
        return hidden @ projection.to(hidden.dtype)

    def _before(self, module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._hidden = self._pass(self._centre(hidden), self.enter)
        if args:
            return (self._hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._hidden}

    def _between(self, module: Any, args: Any, output: Any) -> Any:
        if self.enter is None:
            return output
        summed = self._centre(self._hidden + output[0])
        return (self._pass(summed, self.middle) - self._hidden, *output[1:])

    def fit(self, width: int) -> torch.Tensor:
        """The projection (D, D) of rank ``width`` on the leading principal directions of what was seen (uncentred)."""
        vectors = torch.linalg.eigh(self.gram).eigenvectors
        self.gram = torch.zeros(())
        directions = vectors[:, -width:]
        return directions @ directions.T


def sliced_count(work: Work, width: int, *, parallel: bool) -> int:
    """Block parameters with ``width`` of the hidden dimensions kept; the last block writes the full width, as in the paper."""
    full, total = work.model.config.hidden_size, 0
    for index, block in enumerate(work.blocks):
        leaving = full if index == len(work.blocks) - 1 else width
        for name, slot in block.slots.items():
            out, inner = slot.weight.shape
            if name in ("o", "down"):
                total += inner * (leaving if name == "down" or parallel else width)
            else:
                total += out * width + (out if name in SHRINKING_BIAS and slot.bias is not None else 0)
        total += width * leaving if parallel else width * width + width * leaving
    return total


def slice_stream(model: Any, windows: torch.Tensor, width: int) -> Work:
    """A copy whose stream is projected to ``width`` dimensions at every block, each PCA on the already sliced signal."""
    work = Work(copied(model))
    config = work.model.config
    centred = config.model_type in ("gpt2", "gpt_neox", "opt")
    parallel = bool(getattr(config, "use_parallel_residual", False))
    if getattr(config, "do_layer_norm_before", True) is False:
        raise ValueError("SliceGPT needs the norm in front of each block")
    if hasattr(work.blocks[0].layer, "post_feedforward_layernorm"):
        raise ValueError(
            "SliceGPT needs residual branches that are added as they are; here they are normed before"
        )
    stream = Stream(work.model, windows)
    for block in work.blocks:
        slicer = Slicer(block, centred=centred, parallel=parallel)
        stream.run()
        slicer.enter = slicer.fit(width)
        if not parallel:
            stream.run()
            slicer.middle = slicer.fit(width)
        stream.step()
    return work


def slicegpt(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """SliceGPT at the largest width that fits. Its savings in embeddings and head are not counted, like nobody's here."""
    work = Work(copied(model))
    parallel = bool(getattr(model.config, "use_parallel_residual", False))
    limit, full = target(work, keep), model.config.hidden_size
    if keep >= 1:
        return work.model, work.accounting()
    fitting = [width for width in range(1, full) if sliced_count(work, width, parallel=parallel) <= limit]
    if not fitting:
        raise ValueError(f"keep={keep} leaves SliceGPT no hidden dimension")
    work = slice_stream(model, windows, fitting[-1])
    work.stored = {}
    work.extra = sliced_count(work, fitting[-1], parallel=parallel)
    return work.model, work.accounting()
