"""The question how small a metric can get at a stated predicted loss, and the words that a plan records it in."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOSS = "predicted_loss_nats"
"""Stands in the place of a metric where the stated loss itself is out of reach."""
_WRITTEN = re.compile(r"least (?P<metric>\S+) at a predicted loss of at most (?P<nats>\S+) nats/token")


@dataclass(frozen=True)
class Least:
    """The least of a metric among all ranks whose predicted loss is at most ``max_loss_nats``."""

    metric: str
    """As in a budget without its value."""
    max_loss_nats: float

    @property
    def objective(self) -> str:
        """A plan's words for what was minimised."""
        return f"least {self.metric} at a predicted loss of at most {self.max_loss_nats!r} nats/token"

    @classmethod
    def of(cls, objective: str) -> Least | None:
        """Read what a plan says; None where it minimised the loss."""
        written = _WRITTEN.fullmatch(objective)
        return cls(written["metric"], float(written["nats"])) if written else None
