"""Weight bits per component: which there are, at which ranks, and what they cannot be combined with. Pure: no torch.

A component with bits is held as ``solvers.quantization`` has torchao hold it: 8 is one scale per output, 4 is two weights to a
byte in groups of 32 inputs. A component without (None) stays in the checkpoint's own type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.model.dtypes import WIDTHS, can_pack
from allocator.plan.model.geometry import Component, Geometry

Bits = int | None
"""8, 4, or None: the checkpoint's own type."""

COUNTED = "memory"
"""The one metric that depends on bits."""
INSTALL = "pip install 'rankalloc[quantize]'"


def checked_bits(bits: Iterable[int]) -> list[int]:
    """Each once, descending.

    Raises:
        InvalidInput: bits that there are not.
    """
    found = list(bits)
    for each in found:
        if each not in WIDTHS:
            allowed = "8, 4 or both (8,4)"
            raise InvalidInput(
                f"bits: {each} is not {allowed}", fields=[FieldError("bits", str(each), allowed)]
            )
    return sorted(set(found), reverse=True)


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


def check_request(kind: str, request: Mapping[str, Any]) -> None:
    """Whether a job that asks for ``bits`` asks for nothing that does not go with them.

    Raises:
        InvalidInput: naming the other field and what works.
    """
    if not request.get("bits"):
        return
    checked_bits(request["bits"])
    if request.get("refine"):
        raise _refused("refine", request["refine"], "0, or left out: refinement moves ranks and not bits")
    refuse_healing(request)
    if request.get("around") is not None:
        raise _refused(
            "around", request["around"], "left out: quantized cuts are measured around the dense model"
        )
    budgets = request.get("budgets") or ()
    if kind in ("plan", "compress") and not any(text.strip().startswith(f"{COUNTED}=") for text in budgets):
        allowed = "beside a budget on memory, as in 'memory=0.6@context=4096': no other counts bits"
        raise _refused("bits", ",".join(map(str, request["bits"])), allowed, of_bits=True)


def refuse_healing(request: Mapping[str, Any]) -> None:
    """Raises InvalidInput where weights that are to be rounded would be trained as if they were not."""
    if request.get("heal"):
        raise _refused(
            "heal", request["heal"], "0, or left out: healing trains weights as if none were rounded"
        )


def _refused(field: str, found: Any, allowed: str, *, of_bits: bool = False) -> InvalidInput:
    text = str(found)[:200]
    said = (
        f"{field}: {text} works only {allowed}"
        if of_bits
        else f"{field}: {text}; with bits it must be {allowed}"
    )
    return InvalidInput(said, fields=[FieldError(field, text, allowed)])


def bits_of(row: Mapping[str, Any]) -> Mapping[str, int]:
    """Component -> bits in a row of a plan's ``ranks``; of those that have some."""
    found: Mapping[str, int] = row.get("bits", {})
    return found


def mark(bits: Bits) -> str:
    """What follows a rank for people: `` @8`` in eight bits, nothing in the checkpoint's own type."""
    return "" if bits is None else f" @{bits}"


def shown(rank: int, bits: Bits) -> str:
    """``64``, or ``64 @8``."""
    return f"{rank}{mark(bits)}"
