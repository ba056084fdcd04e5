"""One view of a stock decoder block for all peers: seven named matrices, wherever the family keeps them.

Shape suffixes: D hidden, H query heads, K key/value heads, h head size, m MLP neurons, r rank. Every weight reads (out, in), as
in ``nn.Linear``; GPT-2's Conv1D is turned, fused projections are cut. A peer writes the product of what it stores, padded to
the dense shape: the same function, with the stored numbers counted beside it (``Work``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

READS = {"q": "attn", "k": "attn", "v": "attn", "o": "o", "gate": "mlp", "up": "mlp", "down": "down"}
"""Matrix -> the activation it reads."""
SHRINKING_BIAS = ("q", "k", "v", "gate", "up")
"""Matrices whose bias a rank can shorten; the biases of o and down live in the residual stream and are not counted."""


@dataclass(frozen=True)
class Slot:
    """Rows of a linear module: a whole ``nn.Linear``, or one part of a fused or transposed one."""

    module: Any
    rows: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """A copy (out, in) in float64."""
        weight = self.module.weight.detach()
        weight = weight.T if isinstance(self.module, Conv1D) else weight
        return (weight if self.rows is None else weight[self.rows]).double().clone()

    @property
    def bias(self) -> torch.Tensor | None:
        """A copy (out,) in float64."""
        if self.module.bias is None:
            return None
        bias = self.module.bias.detach()
        return (bias if self.rows is None else bias[self.rows]).double().clone()

    @property
    def gradient(self) -> torch.Tensor:
        """The weight's gradient (out, in) after a backward pass, in float64."""
        gradient = self.module.weight.grad
        gradient = gradient.T if isinstance(self.module, Conv1D) else gradient
        return (gradient if self.rows is None else gradient[self.rows]).double()

    @torch.no_grad()
    def write(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Replace all values; ``bias`` None leaves the module's bias as it is."""
        target = self.module.weight.T if isinstance(self.module, Conv1D) else self.module.weight
        rows = slice(None) if self.rows is None else self.rows
        target[rows] = weight.to(target.dtype)
        if bias is not None:
            self.module.bias[rows] = bias.to(target.dtype)


@dataclass(frozen=True)
class Block:
    """One decoder block; ``rotary`` is how many dimensions of a head are rotated, in half-split pairs."""

    layer: nn.Module
    attention: nn.Module
    slots: dict[str, Slot]
    heads: int
    kv_heads: int
    head_dim: int
    rotary: int

    @property
    def normed(self) -> bool:
        """Whether q and k are normed over whole heads, so that none of their dimensions can be left out."""
        return hasattr(self.attention, "q_norm")

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    def units(self) -> list[list[int]]:
        """Dimensions of a head that QK must keep or drop together: rotary pairs, and the unrotated ones alone."""
        half = self.rotary // 2
        return [[i, i + half] for i in range(half)] + [[i] for i in range(self.rotary, self.head_dim)]


def layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a stock causal model.

    Raises:
        ValueError: a family that has no view here.
    """
    kind = model.config.model_type
    if kind in ("llama", "qwen2", "mistral", "gemma3_text"):
        return model.model.layers
    if kind == "gpt2":
        return model.transformer.h
    if kind == "gpt_neox":
        return model.gpt_neox.layers
    if kind == "opt":
        return model.model.decoder.layers
    raise ValueError(
        f"no view of {kind!r}; there are views of llama, qwen2, mistral, gemma3_text, gpt2, gpt_neox and opt"
    )


def blocks(model: Any) -> list[Block]:
    """Views of all decoder blocks."""
    return [_block(model.config, layer) for layer in layers(model)]


def _block(config: Any, layer: Any) -> Block:
    heads, size = config.num_attention_heads, config.hidden_size
    if config.model_type == "gpt2":
        attention, parts = layer.attn, torch.arange(3 * size).view(3, size)
        slots = {name: Slot(attention.c_attn, rows) for name, rows in zip("qkv", parts, strict=True)}
        slots |= {"o": Slot(attention.c_proj), "up": Slot(layer.mlp.c_fc), "down": Slot(layer.mlp.c_proj)}
        return Block(layer, attention, slots, heads, heads, size // heads, 0)
    if config.model_type == "gpt_neox":
        attention = layer.attention
        parts = torch.arange(3 * size).view(heads, 3, size // heads).transpose(0, 1).reshape(3, size)
        slots = {name: Slot(attention.query_key_value, rows) for name, rows in zip("qkv", parts, strict=True)}
        mlp = {"up": Slot(layer.mlp.dense_h_to_4h), "down": Slot(layer.mlp.dense_4h_to_h)}
        slots |= {"o": Slot(attention.dense), **mlp}
        return Block(layer, attention, slots, heads, heads, attention.head_size, attention.rotary_ndims)
    attention = layer.self_attn
    slots = {name: Slot(getattr(attention, f"{name}_proj")) for name in "qkv"}
    if config.model_type == "opt":
        slots |= {"o": Slot(attention.out_proj), "up": Slot(layer.fc1), "down": Slot(layer.fc2)}
        return Block(layer, attention, slots, heads, heads, attention.head_dim, 0)
    slots["o"] = Slot(attention.o_proj)
    slots |= {name: Slot(getattr(layer.mlp, f"{name}_proj")) for name in ("gate", "up", "down")}
    kv_heads, head_dim = config.num_key_value_heads, attention.head_dim
    return Block(layer, attention, slots, heads, kv_heads, head_dim, head_dim)


@dataclass(frozen=True)
class Accounting:
    """The numbers that a compressed model stores, in exact integers."""

    block_params: int
    dense_block_params: int
    kv_elements_per_token: int
    dense_kv_elements_per_token: int


class Work:
    """A model under compression: its blocks, and per matrix how many numbers are really stored for it."""

    def __init__(self, model: Any) -> None:
        """``model`` is changed in place from here on."""
        self.model = model
        self.blocks = blocks(model)
        self.stored = {(i, name): dense_count(slot, name) for i, name, slot in self.matrices()}
        self.kv = [2 * block.kv_heads * block.head_dim for block in self.blocks]
        self.extra = 0
        self._dense = (sum(self.stored.values()), sum(self.kv))

    def matrices(self) -> Iterator[tuple[int, str, Slot]]:
        """(layer, name, slot) of every matrix."""
        for index, block in enumerate(self.blocks):
            for name, slot in block.slots.items():
                yield index, name, slot

    def put_factors(self, index: int, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Store ``left`` (out, r) and ``right`` (r, in) for a matrix; its bias stays whole."""
        self.put_row_groups(index, name, [(left, right)])

    def put_row_groups(self, index: int, name: str, groups: Sequence[tuple[torch.Tensor, ...]]) -> None:
        """Store, for consecutive groups of a matrix's rows, either two factors or the rows themselves."""
        slot = self.blocks[index].slots[name]
        slot.write(
            torch.cat([group[0] if len(group) == 1 else group[0] @ group[1] for group in groups]), None
        )
        count = sum(stored.numel() for group in groups for stored in group)
        self.stored[index, name] = count + bias_count(slot, name)

    def put_rows(
        self, index: int, name: str, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        """Store ``weight`` (r, in) and ``bias`` (r,) at output ``rows``; the others vanish."""
        slot = self.blocks[index].slots[name]
        padded = torch.zeros_like(slot.weight)
        padded[rows] = weight
        padded_bias = None
        if bias is not None:
            padded_bias = torch.zeros(len(padded), dtype=padded.dtype)
            padded_bias[rows] = bias
        slot.write(padded, padded_bias)
        self.stored[index, name] = weight.numel() + (0 if bias is None else bias.numel())

    def put_columns(self, index: int, name: str, columns: torch.Tensor, weight: torch.Tensor) -> None:
        """Store ``weight`` (out, r) at input ``columns``; the others vanish."""
        slot = self.blocks[index].slots[name]
        padded = torch.zeros_like(slot.weight)
        padded[:, columns] = weight
        slot.write(padded, None)
        self.stored[index, name] = weight.numel()

    def accounting(self) -> Accounting:
        """Counts of everything put so far; what was never put is counted dense."""
        dense_params, dense_kv = self._dense
        return Accounting(sum(self.stored.values()) + self.extra, dense_params, sum(self.kv), dense_kv)


def bias_count(slot: Slot, name: str) -> int:
    """Bias numbers that count as block parameters."""
    return 0 if name not in SHRINKING_BIAS or slot.bias is None else slot.bias.numel()


def dense_count(slot: Slot, name: str) -> int:
    """Block parameters of an uncompressed matrix."""
    return slot.weight.numel() + bias_count(slot, name)
