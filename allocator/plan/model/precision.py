"""Forms of a component: weight bits, which there are, at which ranks; and latents. Pure: no torch.

A component with bits is held as ``solvers.quantization`` has torchao hold it: 8 is one scale per output, 4 is two weights to a
byte in groups of 32 inputs. A component without (None) stays in the checkpoint's own type.

A joint OV caches one latent for all value heads in place of as many numbers of each (``solvers.a3.ov_latent``). A latent QK
makes the queries of all heads of one latent, r numbers for each, and leaves heads and cache as they are
(``solvers.a3.queries``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from allocator.base.errors import InvalidInput
from allocator.plan.model.dtypes import WIDTHS, can_pack
from allocator.plan.model.geometry import Component, Geometry

Bits = int | None
"""8, 4, or None: the checkpoint's own type."""

Latent = Literal["joint", "latent"]
JOINT: Literal["joint"] = "joint"
LATENT: Literal["latent"] = "latent"
LATENTS: Mapping[Latent, Component] = {LATENT: "qk", JOINT: "ov"}
"""Forms that make a layer's queries, or its values, of one latent for all heads -> the component that may have them."""
Form = Bits | Latent
"""How a component is held at its rank: its weights in so many bits, of a latent, or as it always was (None)."""

INSTALL = "pip install 'rankalloc[quantize]'"


def checked_bits(bits: Iterable[int]) -> list[int]:
    """The bits, each once, descending.

    Raises:
        InvalidInput: bits that there are not.
    """
    widths = list(bits)
    for width in widths:
        if width not in WIDTHS:
            allowed = "8, 4 or both (8,4)"
            raise InvalidInput.of("bits", width, allowed)
    return sorted(set(widths), reverse=True)


def admissible_ranks(geometry: Geometry, component: Component, bits: int) -> list[int]:
    """The candidate ranks at which a component can be held in so many bits, ascending.

    None where the component keeps its type: experts, and what the geometry fixes. Four bits need matrices that can be packed,
    every one of them: a rank with one that cannot saves little and is none of this.
    """
    if component in geometry.fixed or (component == "mlp" and geometry.experts > 1):
        return []
    ranks = geometry.candidate_ranks(component)
    if bits == 8:
        return ranks
    return [rank for rank in ranks if all(can_pack(*shape) for shape in geometry.matrices(component, rank))]


def bits_of(row: Mapping[str, Any]) -> Mapping[str, int]:
    """Component -> bits in a row of a plan's ``ranks``; of those that have some."""
    bits: Mapping[str, int] = row.get("bits", {})
    return bits


def latents_of(row: Mapping[str, Any]) -> frozenset[Latent]:
    """The latents in a row of a plan's ``ranks``."""
    return frozenset(form for form, component in LATENTS.items() if row.get(f"{component}_form") == form)


def latent_rows(forms: Iterable[Latent]) -> dict[str, Latent]:
    """The part of a row of a plan's ``ranks`` that names its latents."""
    return {f"{LATENTS[form]}_form": form for form in sorted(forms)}


def bits_in(form: Form) -> Bits:
    """The weight bits of a form."""
    return form if isinstance(form, int) else None


def mark(form: Form) -> str:
    """The text after a rank, for people: `` @8`` in eight bits, `` joint``, nothing where there is nothing to say."""
    return "" if form is None else f" @{form}" if isinstance(form, int) else f" {form}"


def shown(rank: int, form: Form) -> str:
    """``64``, ``64 @8`` or ``16 joint``."""
    return f"{rank}{mark(form)}"
