"""What goes with weight bits in a request, and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.precision import checked_bits


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
    counting = [name for name, metric in METRICS.items() if metric.counts_bits]
    budgets = [text.strip().partition("=")[0] for text in request.get("budgets") or ()]
    if kind in ("plan", "compress") and not set(budgets) & set(counting):
        allowed = f"beside a budget on {' or '.join(counting)}, as in 'memory=0.6@context=4096': no other counts bits"
        raise _refused("bits", ",".join(map(str, request["bits"])), allowed, of_bits=True)


def refuse_healing(request: Mapping[str, Any]) -> None:
    """Raises InvalidInput where weights that are to be rounded would be trained as if they were not."""
    if request.get("heal"):
        raise _refused(
            "heal", request["heal"], "0, or left out: healing trains weights as if none were rounded"
        )


def _refused(field: str, found: Any, allowed: str, *, of_bits: bool = False) -> InvalidInput:
    text = str(found)[:200]
    said = f"{text} works only" if of_bits else f"{text}; with bits it must be"
    return InvalidInput.of(field, text, allowed, said)
