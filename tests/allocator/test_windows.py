"""How long windows are and how many moments see: by the request, by the device, and by what the model can take."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from allocator.base.errors import InvalidInput
from allocator.profiling.windows import Windows, measured_windows, requested_windows
from solvers.errors import TextError
from solvers.texts.text import MEASURE_SHARDS, SHARDS, Text, least_windows, read_text
from tests.support.damage import EXAMPLES


@pytest.mark.parametrize(
    ("positions", "device", "windows"),
    [
        (64, "cpu", Windows(64, 64, 768)),
        (256, "cpu", Windows(256, 256, 192)),
        (4096, "cpu", Windows(256, 256, 192)),
        # With a short context a GPU takes what a CPU takes, so that profiles are shared.
        (64, "cuda", Windows(64, 64, 768)),
        (256, "cuda", Windows(256, 256, 192)),
        (1024, "cuda", Windows(1024, 1024, 128)),
        (4096, "cuda", Windows(2048, 2048, 128)),
    ],
)
def test_what_is_usual_goes_by_context_and_device(positions: int, device: str, windows: Windows) -> None:
    assert requested_windows(positions, device) == windows


@pytest.mark.parametrize(
    ("request_", "device", "windows"),
    [
        ({"sequence_length": 2048}, "cpu", Windows(2048, 256, 24)),
        ({"sequence_length": 4096}, "cpu", Windows(4096, 256, 16)),
        ({"sequence_length": 128}, "cuda", Windows(128, 2048, 384)),
        ({"samples": 16}, "cpu", Windows(256, 256, 16)),
        ({"samples": 256, "sequence_length": 16}, "cuda", Windows(16, 2048, 256)),
        ({"evaluation_length": 4096}, "cpu", Windows(256, 4096, 192)),
    ],
)
def test_what_is_asked_for_is_taken(request_: dict[str, int], device: str, windows: Windows) -> None:
    assert requested_windows(4096, device, **request_) == windows


@pytest.mark.parametrize(
    ("field", "found", "allowed"),
    [
        ("samples", 15, "16 to 1000000"),
        ("samples", 0, "16 to 1000000"),
        ("sequence_length", 15, "16 to 512"),
        ("sequence_length", 513, "16 to 512"),
        ("evaluation_length", 513, "16 to 512"),
        ("evaluation_length", 0, "16 to 512"),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, found: int, allowed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        requested_windows(512, "cpu", **{field: found})
    (error,) = caught.value.fields
    assert (error.field, error.found) == (field, str(found))
    assert allowed in error.allowed
    assert caught.value.detail.startswith(f"{field}: {found} ")


def test_a_profile_is_compared_in_its_own_windows() -> None:
    solution: dict[str, Any] = {"window_tokens": 64, "fit_windows": 77}
    assert measured_windows(solution, 4096, "cuda") == Windows(64, 2048, 77)
    for damage in ({"window_tokens": 8192}, {"window_tokens": -1}, {"window_tokens": "64"}):
        assert measured_windows({**solution, **damage}, 4096, "cpu").calibration_tokens == 256
    for wrong in (0, "many", None):
        assert measured_windows({**solution, "fit_windows": wrong}, 4096, "cpu").samples == 768


@pytest.mark.parametrize("window", [16, 256, 257, 512, 2048, 4096, 1 << 20])
def test_the_least_text_has_windows_in_every_shard(window: int) -> None:
    least = least_windows(window)
    assert least * window >= 16 * min(window, 256) - window
    text = Text(torch.arange(least).unsqueeze(1), "", ())
    fit, measure = text.fit(10**6), text.measure(10**6)
    assert len(measure) >= len(MEASURE_SHARDS)
    assert len(fit) >= SHARDS - len(MEASURE_SHARDS)
    assert sorted([*fit.flatten().tolist(), *measure.flatten().tolist()]) == list(range(least))


def test_a_text_too_short_for_long_windows_says_that_shorter_ones_do(tmp_path: Path) -> None:
    model, text = EXAMPLES / "pylm-llama", tmp_path / "text.txt"
    text.write_text((model / "evaluation.txt").read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    whole = read_text(text, model, window=512, what="calibration")
    assert whole.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    assert 8 <= len(whole.windows) < 16
    with pytest.raises(TextError, match=r"\(8 windows of 2048\).*shorter windows"):
        read_text(text, model, window=2048, what="calibration")
