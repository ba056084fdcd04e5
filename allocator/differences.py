"""What sets two plans apart, rank by rank."""

from __future__ import annotations

from typing import Any

from allocator.errors import Conflict
from allocator.geometry import COMPONENTS


def diff_plans(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What changes from plan ``a`` to plan ``b``: every component whose rank differs, and the totals.

    Raises:
        Conflict: the plans are for different shapes of model.
    """
    if a["model"]["geometry"] != b["model"]["geometry"]:
        raise Conflict("the plans are for models of different geometry and cannot be compared rank by rank")
    changes = [
        {"layer": before["layer"], "component": c, "from": before[c], "to": after[c]}
        for before, after in zip(a["ranks"], b["ranks"], strict=True)
        for c in COMPONENTS
        if before[c] != after[c]
    ]
    return {
        "a": a["digest"],
        "b": b["digest"],
        "same_weights": a["model"]["weights_sha256"] == b["model"]["weights_sha256"],
        "same_profile": a["profile_key"] == b["profile_key"],
        "changes": changes,
        "predicted_loss_nats": {
            "from": a["predicted"]["loss_nats"],
            "to": b["predicted"]["loss_nats"],
            "change": b["predicted"]["loss_nats"] - a["predicted"]["loss_nats"],
        },
        "costs": {
            name: {"from": value, "to": b["costs"][name], "change": b["costs"][name] - value}
            for name, value in a["costs"].items()
        },
    }
