"""The part that all families' adapters share; a family adds where its layers keep their weights."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from solvers import modeling_rankalloc as modeling
from solvers.families.views import fill, linear_views
from solvers.weights import LayerWeights

Call = dict[str, Any]
"""Keyword arguments of one layer besides its hidden states."""

LLAMA_SIZES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size",),
    "intermediate": ("intermediate_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "vocab": ("vocab_size",),
    "positions": ("max_position_embeddings",),
}


class Family(ABC):
    """Adapter of one ``model_type``. ``views`` is all that most families need to write."""

    size_keys: ClassVar[Mapping[str, tuple[str, ...]]] = LLAMA_SIZES
    """Size -> the keys of config.json that may name it, first that is there."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Components that are left as they are; ``docs/reference/families.md`` says why."""
    mlp_size: ClassVar[str | None] = "intermediate_size"
    """The attribute of a stock config that is the MLP's size; None: the class has a fixed one."""
    partial_rotary: ClassVar[bool] = False
    """Whether config.json may say that only a part of each head is rotated."""
    attention_implementation: ClassVar[str] = "sdpa"
    norm: ClassVar[str] = "model.norm"

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type
        self.architecture = modeling.ARCHITECTURES[model_type]
        self.compact = modeling.COMPACT[model_type]

    @property
    def attention_name(self) -> str:
        return self.architecture.attention_name

    @abstractmethod
    def views(self, config: Any, layer: Any) -> LayerWeights:
        """A stock layer's weights in our shapes, sharing its memory: reading and writing are copies from and to them."""

    def layers(self, model: Any) -> nn.ModuleList:
        return self.architecture.layers_of(model)

    def geometry(self, config: Any) -> dict[str, Any]:
        """The fields of ``allocator.plan.model.geometry.Geometry`` that the config decides."""
        layers = range(config.num_hidden_layers)
        attentions = [self.architecture.attention(config, index) for index in layers]
        first, mlp = attentions[0], self.mlp_options(config)
        windows = tuple(options.get("sliding_window") or 0 for options in attentions)
        return {
            "family": self.model_type,
            "layers": len(attentions),
            "hidden": first["hidden_size"],
            "heads": first["heads"],
            "kv_heads": first["kv_heads"],
            "head_dim": first["head_dim"],
            "intermediate": mlp["rank"],
            "mlp_matrices": 3 if mlp["gated"] else 2,
            "qk_step": 2 if 2 * first["rotary_pairs"] == first["head_dim"] else 1,
            "qk_bias": bool(first["qkv_bias"]),
            "ov_bias": bool(first["qkv_bias"]),
            "mlp_bias": bool(mlp["inner_bias"]),
            "vocab": config.vocab_size,
            "max_positions": self.max_positions(config),
            "windows": windows if any(windows) else (),
            "fixed": self.fixed,
        }

    def mlp_options(self, config: Any) -> dict[str, Any]:
        assert self.architecture.mlp is not None
        return self.architecture.mlp(config)

    def residual_is_direct(self, config: Any) -> bool:
        """Whether the outputs of attention and MLP are added to the residual stream as they are, with no norm after."""
        return True

    def max_positions(self, config: Any) -> int:
        return config.max_position_embeddings

    def rotary_pairs(self, config: Any) -> int:
        """How many frequencies a dense head is rotated by; 0 without rotary positions."""
        return self.architecture.attention(config, 0)["rotary_pairs"]

    def read_layer(self, config: Any, layer: Any) -> LayerWeights:
        """Weights of a stock layer (views of it)."""
        weights, pairs = self.views(config, layer), self.rotary_pairs(config)
        if not pairs:
            return weights
        ascending = torch.arange(pairs, device=weights.q_DHr.device)
        return replace(weights, pairs=ascending.expand(weights.kv_heads, -1))

    def write_stock_layer(self, config: Any, layer: Any, padded: LayerWeights) -> None:
        """Copy zero-padded weights of the source's own sizes into a stock layer."""
        fill(self.views(config, layer), padded)

    def put(self, model: Any, index: int, weights: LayerWeights, spare: Sequence[torch.Tensor] = ()) -> None:
        """Give layer ``index`` mixed-rank modules with these weights, in the model's type and on its device.

        Args:
            spare: tensors that nobody needs any more: those of fitting shapes hold the new weights, each one of them.
        """
        layer = self.layers(model)[index]
        previous = getattr(layer, self.attention_name)
        with torch.device("meta"):  # nothing is filled with random numbers only to be overwritten
            attention = self.architecture.make_attention(
                model.config,
                index,
                qk=weights.qk_rank,
                ov=weights.ov_rank,
                pairs=None if weights.pairs is None else weights.pairs.shape[1],
                joint=weights.joint,
                query_latent=weights.query_latent,
            )
            mlp = self.architecture.make_mlp(model.config, weights.mlp_rank)
        unused = list(spare)
        for module in (attention, mlp):
            if module is not None:
                _materialize(module.to(dtype=model.dtype), model.device, unused)
                module.requires_grad_(False).eval()
        if attention.q_norm is not None:
            attention.q_norm, attention.k_norm = previous.q_norm, previous.k_norm
        fill(linear_views(attention, mlp, weights.heads, weights.kv_heads), weights)
        if attention.pairs is not None:
            assert weights.pairs is not None
            attention.pairs.copy_(weights.pairs)
        self.architecture.place(layer, attention, mlp)

    def read(self, model: Any, index: int) -> LayerWeights:
        """Weights of layer ``index`` of a model with mixed-rank modules, views of it: what was put there or loaded."""
        layer = self.layers(model)[index]
        attention, mlp = getattr(layer, self.attention_name), getattr(layer, "mlp", None)
        ours = mlp if hasattr(mlp, "down_proj") else None
        weights = linear_views(attention, ours, attention.heads, attention.kv_heads)
        return weights if attention.pairs is None else replace(weights, pairs=attention.pairs.long())

    def embed(self, model: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """Hidden states before layer 0 and each layer's keyword arguments, for (B, T) token ids without padding.

        The stock model itself prepares them, with recorders in its layers' place.
        """
        base, name = model.get_submodule(self.architecture.base), self.architecture.layers.rpartition(".")[2]
        layers = getattr(base, name)
        recorders = [self.recorder(layer) for layer in layers]
        setattr(base, name, nn.ModuleList(recorders))
        try:
            base(input_ids=input_ids, use_cache=False)
        finally:
            setattr(base, name, layers)
        return recorders[0].hidden, [recorder.call for recorder in recorders]

    def recorder(self, layer: Any) -> Recorder:
        return Recorder(layer)

    def normed(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The head's input, from the last layer's hidden states."""
        return model.get_submodule(self.norm)(hidden)

    def head(self, model: Any, normed: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) from the head's input (..., D)."""
        logits: torch.Tensor = model.lm_head(normed)
        cap = getattr(model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def logits(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, V) from the last layer's hidden states."""
        return self.head(model, self.normed(model, hidden))


class Recorder(nn.Module):
    """Stands in a layer's place, notes how it is called and passes its hidden states on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.signature = inspect.signature(type(layer).forward)
        self.hidden: Any = None
        self.call: Call = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        named = dict(self.signature.bind(self, *args, **kwargs).arguments)
        named.pop("self")
        named |= named.pop("kwargs", {})
        self.hidden = named.pop("hidden_states")
        self.call = {
            name: value for name, value in named.items() if value is not None and name != "use_cache"
        }
        return self.hidden


def _materialize(module: nn.Module, device: torch.device, spare: list[torch.Tensor]) -> None:
    """Give a module on meta memory, its numbers arbitrary: that of ``spare`` tensors, which are taken out, where one fits."""

    def memory_for(like: torch.Tensor) -> torch.Tensor:
        for spot, tensor in enumerate(spare):
            if (tensor.shape, tensor.dtype, tensor.device) == (like.shape, like.dtype, device):
                return spare.pop(spot)
        return torch.empty_like(like, device=device)

    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(memory_for(parameter), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, memory_for(buffer))
