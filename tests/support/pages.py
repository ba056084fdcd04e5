"""The places in README and docs that benchmarks fill."""

from __future__ import annotations

import re
from pathlib import Path

_MARK = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def filled(path: Path) -> dict[str, str]:
    """Name -> what stands there."""
    return {match[2]: match[0] for match in _MARK.finditer(path.read_text(encoding="utf-8"))}


def fill(path: Path, tables: dict[str, str]) -> None:
    """Replace what stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``, for the names that ``tables`` has."""
    text = path.read_text(encoding="utf-8")
    filled = _MARK.sub(
        lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}" if match[2] in tables else match[0], text
    )
    path.write_text(filled, encoding="utf-8")
