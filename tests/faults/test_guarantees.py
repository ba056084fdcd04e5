"""What ``docs/explanation/guarantees.md`` promises is shown by faults and tests that exist; no fault goes without a promise."""

from __future__ import annotations

import re

import pytest

from allocator.base.settings import Settings
from tests.faults.catalogue import FAULTS, NAMES
from tests.support.processes import ROOT

TEXT = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.partition("<!-- bench:")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| fault")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_promise_names_what_shows_it(row: list[str]) -> None:
    _fault, promise, shown = row
    assert promise
    named = re.findall(r"`([^`]+)`", shown)
    files = [name for name in named if name.endswith(".py")]
    tests = [name for name in named if name.startswith("test_") and not name.endswith(".py")]
    faults = [name for name in named if name not in files + tests]
    assert set(faults) <= set(NAMES)
    assert faults or tests
    code = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    assert [name for name in tests if f"def {name}(" not in code] == []


def test_every_fault_is_promised_something() -> None:
    shown = " ".join(row[2] for row in ROWS)
    assert [name for name in NAMES if f"`{name}`" not in shown] == []


def test_every_fault_says_what_it_does() -> None:
    assert all(fault.what for fault in FAULTS.values())


def test_settings_that_are_named_exist_with_the_defaults_that_are_named() -> None:
    for name, default in re.findall(r"`RANKALLOC_([A-Z_]+)` \((\d+)", TEXT):
        assert Settings.model_fields[name.lower()].default == int(default)
