"""Which windows of an evaluation text the calibration text has too, whatever the files are called and however they are cut."""

from __future__ import annotations

import pytest
import torch

from solvers.texts.overlap import BLOCK_TOKENS, shared_windows
from solvers.texts.text import Text, read_text
from tests.support.damage import EXAMPLES


def ids(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 50_000, (count,), generator=torch.Generator().manual_seed(seed))


def cut(tokens: torch.Tensor, window: int, prefix: tuple[int, ...] = ()) -> torch.Tensor:
    count = len(tokens) // window
    body = tokens[: count * window].view(count, window)
    return torch.cat([torch.tensor(prefix, dtype=torch.int64).expand(count, -1), body], dim=1)


@pytest.mark.parametrize("prefix", [(), (1,)])
@pytest.mark.parametrize(("window", "other"), [(256, 256), (256, 200), (64, 2048), (20, 256)])
@pytest.mark.parametrize("shift", [0, 7])
def test_the_same_text_is_found_cut_otherwise_and_moved(
    window: int, other: int, shift: int, prefix: tuple[int, ...]
) -> None:
    text = ids(20_000, 0)
    calibration = Text(cut(text[shift:], other, prefix), "", prefix)
    evaluation = cut(text[:16_384], window, prefix)
    found = shared_windows(evaluation, len(prefix), calibration)
    # Of the first window the beginning is cut off.
    assert len(found) >= len(evaluation) - (1 if shift else 0)
    assert shared_windows(cut(ids(16_384, 1), window, prefix), len(prefix), calibration) == []


def test_the_share_is_that_of_the_windows_that_are_shared() -> None:
    own, known = ids(10 * 256, 1), ids(10_000, 0)
    evaluation = cut(own, 256)
    evaluation[3] = known[1_001:1_257]
    evaluation[7, : 4 * BLOCK_TOKENS] = known[5_000 : 5_000 + 4 * BLOCK_TOKENS]
    evaluation[8, : 3 * BLOCK_TOKENS] = known[5_000 : 5_000 + 3 * BLOCK_TOKENS]
    found = shared_windows(evaluation, 0, Text(cut(known, 256), "", ()))
    assert found == [3, 7], "half of a window's blocks, no less"


@pytest.mark.parametrize("name", ["pylm-llama", "pylm-gpt2"])
def test_the_example_models_are_judged_on_text_that_nothing_saw(name: str) -> None:
    folder = EXAMPLES / name
    calibration, evaluation = (
        read_text(folder / f"{what}.txt", folder, window=256, what=what)
        for what in ("calibration", "evaluation")
    )
    assert shared_windows(evaluation.windows, len(evaluation.prefix), calibration) == []
    assert len(shared_windows(calibration.windows, len(calibration.prefix), calibration)) == len(
        calibration.windows
    )
