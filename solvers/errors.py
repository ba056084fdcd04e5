"""Errors about a model or a text. The service turns these into its own errors, word for word."""

from __future__ import annotations

_LONGEST = 1000


class _FromOutside(ValueError):
    """Its text repeats names out of files that nobody vouches for, and ends in a terminal, a log and a database."""

    def __init__(self, text: str) -> None:
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_LONGEST])
        super().__init__(shown + "..." if len(text) > _LONGEST else shown)


class ModelError(_FromOutside):
    """A model that cannot be used."""


class UnsupportedModelError(ModelError):
    """A family without an adapter, or a model that needs remote code."""


class UnreadableModelError(ModelError):
    """A folder that is missing, incomplete, corrupt or that points outside itself."""


class TextError(_FromOutside):
    """A text that is missing, empty, not UTF-8 or too short."""
