"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with these column heads; cells are Markdown already."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    lines.insert(1, "|" + "---|" * len(heads))
    return "\n".join(lines)


def cell(text: str) -> str:
    """A text of several lines as a cell: no bar ends it, and outside of code nothing is taken for HTML."""
    text = " ".join(text.split()).replace("|", r"\|")
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)
