"""Content names: sha256 over canonical JSON (RFC 8785)."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def digest(document: Any) -> str:
    """Hex sha256 of a JSON document's canonical form: independent of key order, spacing and Python version."""
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()
