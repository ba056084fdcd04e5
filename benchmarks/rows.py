"""Measured rows, written down as they come: a long run that is cut short loses little."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

from allocator.report.document import Report

Row = dict[str, Any]


def report_of(row: Row) -> Report:
    """The report of the job that a row is of."""
    return Report.stored(row["report"])


class Rows(list[Row]):
    """Rows that are also kept in a JSON file, if one is named.

    Args:
        resume: start from what the file holds; otherwise it is overwritten.
    """

    def __init__(self, path: Path | None = None, *, resume: bool = False) -> None:
        super().__init__(
            json.loads(path.read_text(encoding="utf-8")) if path and resume and path.exists() else []
        )
        self._path = path

    def add(self, rows: Iterable[Row]) -> None:
        """Append and write."""
        for row in rows:
            sys.stderr.write(json.dumps(row) + "\n")
            self.append(row)
        self.save()

    def save(self) -> None:
        """Write what changed in rows that are there."""
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self, indent=1), encoding="utf-8")

    def has(self, **values: Any) -> bool:
        """Whether some row holds all these values."""
        return any(all(row.get(name) == value for name, value in values.items()) for row in self)


def geometric(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers; NaN where there is none or one is not positive."""
    if not values or min(values) <= 0:
        return float("nan")
    return exp(sum(map(log, values)) / len(values))
