"""Which windows judge a healing, and what it asks of the dense model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allocator.stages import heal
from allocator.stages.heal import Teacher, validation
from solvers.checkpoints.reading import inspect, load
from solvers.model.surgery import open_model
from solvers.texts.text import read_text
from tests.support.damage import EXAMPLES

MODEL = EXAMPLES / "pylm-llama"


@given(windows=st.integers(2, 3000), length=st.sampled_from([16, 64, 256, 1024, 2048, 8192]))
def test_a_few_windows_judge_and_the_others_train(windows: int, length: int) -> None:
    chosen = validation(windows, length)
    judging = int(chosen.sum())
    assert 1 <= judging <= max(1, 4096 // length, windows // 8)
    assert judging * 8 <= max(windows, 8)
    gaps = chosen.nonzero().flatten().diff()
    assert not len(gaps) or gaps.min() == gaps.max()
    if windows * length <= 8 * 4096 and windows >= 8:
        assert judging == windows // 8


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_held_states_give_the_same_logits(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the dense model, whatever a window comes with."""
    monkeypatch.setattr(heal, "_TEACHER_BYTES", room)
    opened = open_model(load(inspect(MODEL)))
    windows = read_text(MODEL / "calibration.txt", MODEL, window=64, what="calibration").windows[:4]
    teacher = Teacher(opened)
    with torch.no_grad():
        together, *alone = (teacher.head(teacher.states(ids)) for ids in (windows, *windows.split(1)))
    expected = opened.model(windows).logits
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], other, rtol=1e-5, atol=1e-5)
