"""The benchmark of vocabularies on heads that take no time."""

from __future__ import annotations

import pytest
import torch

from benchmarks import vocabulary
from benchmarks.vocabulary import Taken, measured, table


def test_losses_agree_and_a_row_says_how_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "HEADS", {"small": (70_000, 8)})
    monkeypatch.setattr(vocabulary, "TOKENS", 100)
    for each in measured(70_000, 8):
        assert each.head_ms > 0 < each.kl_ms
        assert (each.kl > 0).all()
        assert len(each.kl) == 100
    assert table().splitlines()[-1].startswith("| small | 70,000 | 59 → 256 | ")


def test_losses_that_differ_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter((1.0, 2.0))
    monkeypatch.setattr(vocabulary, "TOKENS", 4)
    monkeypatch.setattr(vocabulary, "taken", lambda *_: Taken(1.0, 1.0, torch.tensor([next(losses, 2.0)])))
    with pytest.raises(SystemExit, match="the losses depend"):
        measured(50, 4)
