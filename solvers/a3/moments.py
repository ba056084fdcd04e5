"""Second moments of a model's inner activations: streaming, mergeable, in float64.

The two large ones, of all heads' values and of the MLP's neurons, are symmetric: half of them is computed and stored
(``solvers.a3.grams``).

Shape suffixes: H query heads, K key/value heads, h head size, Z = H h, m MLP neurons. All are sums over tokens; ``count``
divides them. Two sets of moments over different tokens add up to the moments over both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from solvers.a3 import metric
from solvers.a3.attended import attended_rows
from solvers.a3.effects import query_effects
from solvers.a3.grams import add_gram, from_panels, panels
from solvers.model.surgery import OpenModel

_PANELS = ("z_ZZ", "mlp_mm")
"""Stored as panels of rows up to the diagonal."""
_STORED = {"mlp_mm": torch.float32}
"""Moments that are stored in less than float64: the largest by far, and as exact as its products are."""


@dataclass
class LayerMoments:
    """The facts about the data that the solvers of one layer need: sums over tokens, never centred.

    ``q_Hhh``, ``k_Khh``, ``v_Khh``: outputs of the projections, bias included, before any rotation. ``z_ZZ`` and ``z_Z``: input
    of o_proj (softmax(A) V, all heads side by side: Z = H h) and its plain sum. ``mlp_mm``, ``mlp_m``: the same of down_proj's
    input. With rotary positions: ``q_rotated_Khh`` (summed over the group's query heads), ``k_rotated_Khh`` and
    ``pair_gram_HFF`` (of the rotated dimensions); with unrotated dimensions: ``key_covariance_Hhh`` (of those; both in
    ``solvers.a3.metric``). Where joint values are asked for: ``attended_VV``, of the values of all heads side by side (V = K h)
    as query heads attend to them, summed over those too (``solvers.a3.attended``). Where queries of a latent are asked for:
    ``query_QQ``, of all heads' queries side by side (Q = H h) without bias, and ``query_effect_QQ``, of what they do
    (``solvers.a3.queries``).
    """

    count: int
    q_Hhh: torch.Tensor
    k_Khh: torch.Tensor
    v_Khh: torch.Tensor
    z_ZZ: torch.Tensor
    z_Z: torch.Tensor
    mlp_mm: torch.Tensor
    mlp_m: torch.Tensor
    q_rotated_Khh: torch.Tensor | None = None
    k_rotated_Khh: torch.Tensor | None = None
    pair_gram_HFF: torch.Tensor | None = None
    key_covariance_Hhh: torch.Tensor | None = None
    attended_VV: torch.Tensor | None = None
    query_QQ: torch.Tensor | None = None
    query_effect_QQ: torch.Tensor | None = None

    @property
    def z_Hhh(self) -> torch.Tensor:
        """Input of o_proj per query head: the diagonal blocks of ``z_ZZ``."""
        heads = len(self.q_Hhh)
        size = len(self.z_ZZ) // heads
        blocks = self.z_ZZ.view(heads, size, heads, size)
        return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)

    def __add__(self, other: LayerMoments) -> LayerMoments:
        merged: dict[str, Any] = {}
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            merged[item.name] = None if mine is None else mine + theirs
        return LayerMoments(**merged)

    def to(self, device: torch.device) -> LayerMoments:
        """The same moments on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return LayerMoments(count=self.count, **moved)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}


def not_finite(moments: LayerMoments) -> str | None:
    """The first moment with NaN or infinite values: activations have overflowed. None where all is well."""
    return next(
        (name for name, tensor in moments.tensors().items() if not torch.isfinite(tensor).all()), None
    )


@torch.no_grad()
def layer_moments(
    opened: OpenModel,
    index: int,
    hidden: torch.Tensor,
    call: dict[str, Any],
    earlier: LayerMoments | None = None,
    *,
    forms: Collection[str] = (),
) -> tuple[LayerMoments, torch.Tensor]:
    """Moments of layer ``index`` at full rank for one batch, and its output, given its input (B, T, D).

    Args:
        earlier: moments of this layer over other batches. They are added to in place, so there is never a second set of them.
        forms: also the moments that ``joint`` values or queries of a ``latent`` are solved on.
    """
    caught: dict[str, torch.Tensor] = {}
    attention_call: list[Any] = []
    layer, attention = opened.layer(index), opened.attention(index)

    def keep_output(name: str) -> Any:
        return lambda module, args, output: caught.__setitem__(name, output)

    def keep_call(module: Any, args: Any, kwargs: Any) -> None:
        attention_call[:] = args, kwargs

    def keep_input(name: str) -> Any:
        return lambda module, args: caught.__setitem__(name, args[0])

    handles = [
        attention.q_proj.register_forward_hook(keep_output("q")),
        attention.k_proj.register_forward_hook(keep_output("k")),
        attention.v_proj.register_forward_hook(keep_output("v")),
        attention.o_proj.register_forward_pre_hook(keep_input("z")),
        attention.register_forward_pre_hook(keep_call, with_kwargs=True),
    ]
    if hasattr(layer.mlp, "down_proj"):
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(keep_input("mlp")))
    try:
        output = layer(hidden, **call)
    finally:
        for handle in handles:
            handle.remove()
    batch, tokens = hidden.shape[:2]
    # An MLP that is left alone has no neurons to us.
    caught.setdefault("mlp", hidden.new_zeros(batch, tokens, 0))
    sums = {} if earlier is None else earlier.tensors()

    def by_head(name: str, heads: int) -> torch.Tensor:
        return caught[name].unflatten(-1, (heads, caught[name].shape[-1] // heads)).transpose(1, 2)

    def add(name: str, value: torch.Tensor) -> None:
        sums[name] = sums[name].add_(value) if name in sums else value

    def add_side_by_side(name: str, states: torch.Tensor) -> None:
        """Add the Gram matrix of all heads side by side, (B, T, n)."""
        stack = {name: sums[name][None]} if name in sums else {}
        add_gram(stack, name, states.unsqueeze(1))
        sums[name] = stack[name][0]

    query, key = by_head("q", attention.heads), by_head("k", attention.kv_heads)
    add_gram(sums, "q_Hhh", query)
    add_gram(sums, "k_Khh", key)
    add_gram(sums, "v_Khh", by_head("v", attention.kv_heads))
    for name, square, plain_sum in (("z", "z_ZZ", "z_Z"), ("mlp", "mlp_mm", "mlp_m")):
        add_side_by_side(square, caught[name])
        add(plain_sum, caught[name].double().sum((0, 1)))
    mask = metric.additive_mask(call)
    query, key = attention.normed(query, key)
    if attention.pairs is None:
        add("key_covariance_Hhh", metric.key_covariance(attention, query, key, mask))
    else:
        query, key = attention.rotated(query, key, call["position_embeddings"])
        # A group's query heads are as many rows more of one head.
        add_gram(sums, "q_rotated_Khh", query.unflatten(1, (attention.kv_heads, -1)).flatten(2, 3))
        add_gram(sums, "k_rotated_Khh", key)
        if attention.q_norm is None:  # normalized queries and keys keep their rank
            add("pair_gram_HFF", metric.pair_gram(attention, query, key, mask))
            if 2 * attention.pairs.shape[1] < query.shape[-1]:
                add("key_covariance_Hhh", metric.key_covariance(attention, query, key, mask))
    if "joint" in forms:
        rows = attended_rows(attention, query, key, by_head("v", attention.kv_heads), mask)
        attended: dict[str, torch.Tensor] = {}
        add_gram(attended, "attended_VV", rows.unsqueeze(1))
        add("attended_VV", attended["attended_VV"][0] * (attention.heads * tokens / rows.shape[1]))
    if "latent" in forms:
        args, kwargs = attention_call
        bias = getattr(attention.q_proj, "bias", None)
        unbiased = caught["q"] if bias is None else caught["q"] - bias
        # Signs of their own for every layer and batch, the same whenever this batch comes again.
        seed = index * 1_000_003 + (0 if earlier is None else earlier.count)
        effects = query_effects(attention, args, kwargs, seed)
        add_side_by_side("query_QQ", unbiased)
        add_side_by_side("query_effect_QQ", effects)
    count = batch * tokens + (0 if earlier is None else earlier.count)
    return LayerMoments(count=count, **sums), output


def collect(opened: OpenModel, input_ids: torch.Tensor, *, forms: Collection[str] = ()) -> list[LayerMoments]:
    """Moments of every layer over one batch of token ids (B, T)."""
    return list(by_layer(opened, [input_ids], forms=forms))


@torch.no_grad()
def by_layer(
    opened: OpenModel,
    batches: Sequence[torch.Tensor],
    tick: Callable[[], None] = lambda: None,
    *,
    first: int = 0,
    on_pass: Callable[[], None] = lambda: None,
    forms: Collection[str] = (),
) -> Iterator[LayerMoments]:
    """Moments of layer ``first``, ``first + 1``, ... over all batches of token ids (B, T), one layer at a time.

    Only one layer's moments and the batches' hidden states are held, whatever the number of layers.

    Args:
        tick: called after each batch of each layer whose moments are made.
        first: the batches only run through the layers before it.
        on_pass: called after each batch of each of those.
        forms: also the moments that ``joint`` values or queries of a ``latent`` are solved on.
    """
    hidden, calls = opened.starts(batches)
    for index in range(first):
        opened.through(index, hidden, calls, on_pass)
    for index in range(first, len(opened.source)):
        total: LayerMoments | None = None
        for number, call in enumerate(calls):
            total, hidden[number] = layer_moments(
                opened, index, hidden[number], call[index], total, forms=forms
            )
            tick()
        assert total is not None
        yield total


def add(total: list[LayerMoments] | None, more: list[LayerMoments]) -> list[LayerMoments]:
    """Layer by layer sum; ``None`` is the empty set."""
    return more if total is None else [a + b for a, b in zip(total, more, strict=True)]


def save(path: Path, moments: LayerMoments) -> None:
    """Write one layer's moments to a safetensors file, of the large ones one half."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in moments.tensors().items():
        if name not in _PANELS:
            tensors[name] = tensor.cpu().contiguous()
            continue
        for start, panel in panels(tensor):
            stored = panel.to(dtype=_STORED.get(name, tensor.dtype), device="cpu")
            tensors[f"{name}.{start}"] = stored.contiguous()
    sizes = {name: str(len(getattr(moments, name))) for name in _PANELS}
    save_file(tensors, path, metadata={"count": str(moments.count), **sizes})


def load(path: Path) -> LayerMoments:
    """Read one layer's moments."""
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys() if "." not in name}
        for name in _PANELS:
            tensors[name] = from_panels(int(facts[name]), partial(_panel, file, name))
    return LayerMoments(count=int(facts["count"]), **tensors)


def _panel(file: Any, name: str, start: int) -> torch.Tensor:
    panel: torch.Tensor = file.get_tensor(f"{name}.{start}")
    return panel
