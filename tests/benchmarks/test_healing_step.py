"""The benchmark of a healing's step, on an example model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import healing_step
from benchmarks.healing_step import step, table
from tests.support.processes import ROOT

MODEL = ROOT / "examples" / "models" / "pylm-llama"


def test_both_ways_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing_step, "TOKENS", 32)
    whole, now = (step(MODEL, whole=way) for way in (True, False))
    assert whole["norm"] == pytest.approx(now["norm"], rel=1e-3)
    assert now["norm"] > 0 < now["seconds"]


def test_a_row_says_what_is_left_and_gradients_that_differ_are_no_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(healing_step, "KNOWN", {"small": SimpleNamespace(name="Small")})
    monkeypatch.setattr(healing_step, "built", lambda source: MODEL)
    ways = {
        "whole": {"seconds": 4.0, "bytes": 2_000_000_000.0, "norm": 1.0},
        "now": {"seconds": 5.0, "bytes": 5e8, "norm": 1.001},
    }
    monkeypatch.setattr(healing_step, "printed", lambda home, *arguments: ways[arguments[-1]])
    assert table(["small"]).splitlines()[-1].endswith("| 2,000 | 500 | 1.25 |")
    ways["now"]["norm"] = 1.1
    with pytest.raises(SystemExit, match="the gradients depend"):
        table(["small"])
