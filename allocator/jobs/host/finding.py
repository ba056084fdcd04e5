"""A finding of the doctor's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

FindingState = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """``note``: works, but look at it; ``wrong``: something will not work. ``advice``: what to do, empty where all is well."""

    check: str
    state: FindingState
    found: str
    advice: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)
