"""The shape of a model as plain integers: what costs are computed from, without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from allocator.base.document import LOOSE, Document, Short, Size, disagreement

Component = Literal["qk", "ov", "mlp"]
COMPONENTS: tuple[Component, ...] = ("qk", "ov", "mlp")

_Latent = Literal["joint", "latent"]
"""``plan.model.precision.Latent``, which is said there."""
_Several = Annotated[int, Field(ge=1, le=65_536)]
_Positions = Annotated[int, Field(ge=0, le=2**40)]


class Geometry(Document):
    """Sizes of a decoder whose layers are all alike but for their windows.

    ``qk_step`` is 2 where whole heads are rotated (dimensions go in pairs). ``mlp_matrices`` is 3 with a gate, 2 without.
    ``*_bias`` say whether the tensors that shrink carry biases. ``total_params`` counts tied tensors once.
    ``bytes_per_param`` is the checkpoint's storage; the cache is counted in the same type.
    ``windows``: how many positions each layer attends to, 0 for all; empty if no layer has a window.
    ``fixed``: components that stay at the full rank (``docs/reference/families.md``).
    ``experts``: MLPs side by side in every layer, of which ``active_experts`` run for a token.
    """

    family: Short
    layers: Annotated[int, Field(ge=1, le=10_000)]
    hidden: Size
    heads: _Several
    kv_heads: _Several
    head_dim: _Several
    intermediate: Size
    mlp_matrices: Literal[2, 3]
    qk_step: Literal[1, 2]
    qk_bias: bool
    ov_bias: bool
    mlp_bias: bool
    vocab: Size
    max_positions: Annotated[_Positions, Field(ge=1)]
    total_params: Annotated[int, Field(ge=1, le=10**14)]
    bytes_per_param: Annotated[int, Field(ge=1, le=8)]
    windows: Annotated[tuple[_Positions, ...], LOOSE, Field(max_length=10_000)] = ()
    fixed: Annotated[tuple[Component, ...], LOOSE, Field(max_length=3)] = ()
    experts: _Several = 1
    active_experts: _Several = 1

    @field_validator("kv_heads", "windows", "fixed", "active_experts")
    @classmethod
    def _agree(cls, value: Any, info: ValidationInfo) -> Any:
        """Check a field against the sizes before it, where those are right themselves."""
        size = info.data.get
        heads, layers, experts = size("heads", value), size("layers", 0), size("experts", value)
        fine, allowed = {
            "kv_heads": lambda: (heads % value == 0, f"a divisor of heads, {heads}"),
            "windows": lambda: (len(value) in (0, layers), f"none or {layers} of them"),
            "fixed": lambda: (len(set(value)) == len(value), "each component once"),
            "active_experts": lambda: (value <= experts, f"at most experts, {experts}"),
        }[str(info.field_name)]()
        if not fine:
            raise disagreement(allowed)
        return value

    @property
    def document(self) -> dict[str, Any]:
        """All sizes, also those that were left at what most models have."""
        return self.model_dump(mode="json")

    def full_rank(self, component: Component) -> int:
        """The dense rank: head_dim for QK and OV, intermediate size for the MLP."""
        return self.intermediate if component == "mlp" else self.head_dim

    def step(self, component: Component) -> int:
        """Ranks of a plan are multiples of this, or the full rank.

        The MLP moves in the largest power of two that leaves at least 64 steps: finer ones change the optimum by less than the
        curves' own error and cost solving time, and multiples of 8, 16, ... that hardware likes are among them. Heads
        wider than 128 move in twos. A fixed component has one step.
        """
        if component in self.fixed:
            return self.full_rank(component)
        if component == "mlp":
            return 1 << max(0, (self.intermediate // 64).bit_length() - 1)
        wide = 2 if self.head_dim > 128 else 1
        return max(self.qk_step, wide) if component == "qk" else wide

    def candidate_ranks(self, component: Component) -> list[int]:
        """Every rank a plan may use, ascending; the last is the full rank."""
        full, step = self.full_rank(component), self.step(component)
        ranks = list(range(step, full + 1, step))
        return ranks if ranks[-1] == full else [*ranks, full]

    def latent_ranks(self, form: _Latent) -> list[int]:
        """Ranks at which OV may be ``joint``, or QK ``latent``, ascending.

        Joint: sixteenths of the heads, below the full rank; none with one value head, which has nobody to share with. Latent:
        32nds of the heads, as far as two matrices are smaller than the one that they replace; also where QK is fixed, since a
        latent leaves every query whole.
        """
        if form == "joint":
            grid, below = max(1, self.head_dim // 16), self.head_dim
            candidates = [] if self.kv_heads == 1 else self.candidate_ranks("ov")
        else:
            grid = max(1, self.head_dim // 32)
            below = -(-self.hidden * self.head_dim // (self.hidden + self.heads * self.head_dim))
            candidates = self.replaced(fixed=()).candidate_ranks("qk")
        # A fixed OV has its full rank alone.
        return [rank for rank in candidates if rank < below and rank % grid == 0]

    def matrices(
        self, component: Component, rank: int, *, form: int | _Latent | None = None
    ) -> list[tuple[int, int]]:
        """(inputs, outputs) of the component's linear layers at a rank; of one expert where there are several.

        A joint OV's latent is brought to the size of heads by K r K head_dim numbers more, which are no linear layer.
        """
        size = self.head_dim
        queries, keys = (self.hidden, self.heads * rank), (self.hidden, self.kv_heads * rank)
        if form == "latent":
            return [queries, (self.heads * rank, self.heads * size), (self.hidden, self.kv_heads * size)]
        if component == "qk":
            return [queries, keys]
        if component == "ov":
            return [keys, (self.heads * (size if form == "joint" else rank), self.hidden)]
        return [(self.hidden, rank)] * (self.mlp_matrices - 1) + [(rank, self.hidden)]

    def seen(self, layer: int, context: int) -> int:
        """How many of ``context`` positions the layer attends to and keeps in its cache."""
        return min(context, self.windows[layer] or context) if self.windows else context
