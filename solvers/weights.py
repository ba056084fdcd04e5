"""One layer's weights in the shapes the mathematics uses: rows are tokens, Y = X W.

Shape suffixes: D hidden, H query heads, K key/value heads, h head size, m MLP neurons, r a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class LayerWeights:
    """Attention and MLP weights of one layer.

    ``pairs`` (K, p), ascending, names the rotary frequencies that each key/value head keeps (None without rotary positions):
    dimension j < p of a query or key is paired with j + p, dimensions from 2p on are not rotated. Where p is r_qk / 2 that is
    Hugging Face's Llama. A layer whose MLP is left alone has an MLP of no neurons here.

    With ``v_up_KRh`` the values of key/value head k are ``c v_up_KRh[k]``, of the latent c that ``v_DKr`` projects to:
    R = K r numbers for all heads. ``o_HrD`` then takes whole heads.

    With ``q_down_DR`` queries are made of a latent too: ``q_DHr`` then is (R, H, r) and reads the R numbers that ``q_down_DR``
    projects to.
    """

    q_DHr: torch.Tensor
    k_DKr: torch.Tensor
    v_DKr: torch.Tensor
    o_HrD: torch.Tensor
    up_Dm: torch.Tensor
    down_mD: torch.Tensor
    gate_Dm: torch.Tensor | None = None
    q_bias_Hr: torch.Tensor | None = None
    k_bias_Kr: torch.Tensor | None = None
    v_bias_Kr: torch.Tensor | None = None
    o_bias_D: torch.Tensor | None = None
    gate_bias_m: torch.Tensor | None = None
    up_bias_m: torch.Tensor | None = None
    down_bias_D: torch.Tensor | None = None
    pairs: torch.Tensor | None = None
    v_up_KRh: torch.Tensor | None = None
    q_down_DR: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are there, by field."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    @property
    def qk_rank(self) -> int:
        return self.q_DHr.shape[2]

    @property
    def ov_rank(self) -> int:
        return self.v_DKr.shape[2]

    @property
    def joint(self) -> bool:
        """Whether values are made of one latent for all heads."""
        return self.v_up_KRh is not None

    @property
    def query_latent(self) -> int:
        """How many numbers queries are made of, for all heads together; 0: of the hidden states themselves."""
        return 0 if self.q_down_DR is None else self.q_down_DR.shape[1]

    @property
    def mlp_rank(self) -> int:
        return self.up_Dm.shape[1]

    @property
    def heads(self) -> int:
        return self.q_DHr.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.k_DKr.shape[1]

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> LayerWeights:
        """All tensors in another dtype or on another device (``pairs`` keeps its integers)."""
        moved = {
            name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            for name, tensor in self.tensors().items()
        }
        return replace(self, **moved)


class OnDemand(Sequence[LayerWeights]):
    """So many layers, each made anew whenever it is asked for: whoever walks through them holds one at a time."""

    def __init__(self, count: int, make: Callable[[int], LayerWeights]) -> None:
        self._places, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._places[index])


def save_layer(path: Path, weights: LayerWeights) -> None:
    """Write one layer to a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in weights.tensors().items()}, path)


def load_layer(path: Path) -> LayerWeights:
    """Read one layer, in the types it was written in; the file is mapped, and read where a tensor is used."""
    return LayerWeights(**load_file(path))
