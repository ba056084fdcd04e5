"""An engine as a plan sees it: the ranks that it can hold, and the cache that it allocates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.model.precision import Latent


class Target:
    """An engine. A new one is a file beside this one and a line in the package's registry."""

    name: str
    help: str
    """One sentence for references and forms."""
    exports: ClassVar[tuple[str, ...]]
    """Kinds of checkpoint that it loads (``stages.exports``), the one to serve first."""
    paired: ClassVar[bool] = False
    """Whether its cache depends on QK and OV of a layer together, so that the program chooses them together."""
    bits: ClassVar[bool] = False
    """Whether it loads weights in bits that a plan chose."""
    latents: ClassVar[tuple[Latent, ...]] = ()
    """Latents that it computes."""
    whole: ClassVar[tuple[Component, ...]] = ()
    """Components that keep the full rank."""
    multiples: ClassVar[Mapping[Component, int]] = {}
    """Components whose ranks are multiples of a number, or the full rank."""
    rules: ClassVar[Mapping[Component, str]] = {}
    """What ``whole`` and ``multiples`` ask of a component, in words for people."""
    tie_rules: ClassVar[Mapping[Component, str]] = {}
    """What ``ties`` asks of it."""

    def refusal(self, geometry: Geometry) -> str | None:
        """Why it cannot serve models of this shape at all; None: it can."""
        return None

    def ties(self, geometry: Geometry) -> tuple[Component, ...]:
        """Components that have one rank in all layers."""
        return ()

    def holds(self, geometry: Geometry, component: Component, rank: int) -> bool:
        """Whether a component may have this rank."""
        if rank == geometry.full_rank(component):
            return True
        return component not in self.whole and rank % self.multiples.get(component, 1) == 0

    def own_width(self, geometry: Geometry) -> int:
        """Bytes of a cached number where nothing is said of the cache."""
        return geometry.bytes_per_param

    @property
    def head_size(self) -> Callable[[int], int] | None:
        """Rank -> the head size that the engine stores it in, for a checkpoint to name; None: it needs none named."""
        return None

    def cached_bytes(self, geometry: Geometry, width: int, component: Component, rank: int) -> int:
        """Bytes per token and layer that a component adds to the cache by itself.

        Args:
            width: bytes of a cached number.
        """
        return 0 if component == "mlp" else geometry.kv_heads * rank * width

    def shared_bytes(self, geometry: Geometry, width: int, qk: int, ov: int) -> int:
        """Bytes per token and layer that QK and OV of these ranks add together, beyond what each adds by itself."""
        return 0

    def positions(self, geometry: Geometry, layer: int, context: int) -> int:
        """For how many positions of a sequence of ``context`` tokens the layer's cache has room."""
        return geometry.seen(layer, context)
