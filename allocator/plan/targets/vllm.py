"""vLLM, whose cache holds keys and values of a layer at one size.

Its Transformers backend makes one attention per layer with the head size that the config names for that layer, for queries,
keys and values alike; the modelling file pads to it. Layers of unlike sizes stand beside one another without padding where
all see the whole context, or all the same window; where some do and some do not, every page is as large as the largest, which
is counted as that of whole heads (vLLM 0.32: ``v1/kv_cache_interface.py``, ``v1/core/kv_cache_utils.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.model.precision import LATENT
from allocator.plan.targets.target import Target

UNSERVED = {"mpt": "its Transformers backend leaves MPT's biases of distance out"}
"""Families that its Transformers backend does not compute right -> why."""


class VLLM(Target):
    """2 K size(max(r_qk, r_ov)) numbers per token and layer, in blocks of ``block`` tokens.

    Args:
        name: of the target.
        help: for references and forms.
        sizes: the head sizes that its kernels take, ascending; larger heads keep theirs.
        block: tokens of a block.
    """

    exports = ("compact",)
    paired = True
    latents = (LATENT,)

    def __init__(self, name: str, help: str, sizes: Sequence[int], block: int) -> None:
        self.name, self.help = name, help
        self.sizes, self.block = tuple(sizes), block

    def refusal(self, geometry: Geometry) -> str | None:
        return UNSERVED.get(geometry.family)

    @property
    def head_size(self) -> Callable[[int], int]:
        return self._size

    def _size(self, rank: int) -> int:
        return next((size for size in self.sizes if size >= rank), rank)

    def cached_bytes(self, geometry: Geometry, width: int, component: Component, rank: int) -> int:
        return 0

    def shared_bytes(self, geometry: Geometry, width: int, qk: int, ov: int) -> int:
        mixed = len(set(geometry.windows)) > 1
        rank = geometry.head_dim if mixed else max(qk, ov)
        return 2 * geometry.kv_heads * self._size(rank) * width

    def positions(self, geometry: Geometry, layer: int, context: int) -> int:
        return -(-geometry.seen(layer, context) // self.block) * self.block


GPU = VLLM(
    "vllm",
    "vLLM on a GPU: keys and values of a layer share one head size, a multiple of 8; blocks of 16 tokens.",
    sizes=range(8, 257, 8),
    block=16,
)
CPU = VLLM(
    "vllm-cpu",
    "vLLM on a CPU: as on a GPU, with the head sizes of its kernel (32, 64, 80, 96, 112, 128, ...); blocks of 128 tokens.",
    sizes=(32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512),
    block=128,
)
