"""The length of windows and the number that moments are taken over: as requested, else as usual on the device. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.plan.effort import FIT_WINDOWS, MAX_WINDOW_TOKENS, windows_in

LEAST_SAMPLES = 16
"""Fewest windows that may be asked for: moments over fewer are noise."""

MOST_SAMPLES = 1_000_000
"""More than any text that is read has."""

LEAST_WINDOW_TOKENS = 16
"""Shortest window that may be asked for."""

MOST_WINDOW_TOKENS = 1 << 20
"""Longest one that may be asked for, whatever the context."""

CUDA_SAMPLES = 128
CUDA_WINDOW_TOKENS = 2048
"""The field's usual 128 windows of 2048 tokens, or of the model's context: what a GPU is asked for. On CPUs they would take
hours.
"""


@dataclass(frozen=True)
class Windows:
    """Tokens of a window of the calibration and of the evaluation text, and how many of the former moments are taken over."""

    calibration_tokens: int
    evaluation_tokens: int
    samples: int


def usual_length(positions: int, device: str) -> int:
    """Tokens of a window where nobody says; ``positions`` is the model's context."""
    return min(CUDA_WINDOW_TOKENS if device == "cuda" else MAX_WINDOW_TOKENS, positions)


def usual_samples(window_tokens: int, device: str) -> int:
    """Windows of this length that moments are taken over where nobody says; never fewer on a GPU than on CPUs, so that models
    with short contexts have the same moments on both.
    """
    return max(windows_in(FIT_WINDOWS, window_tokens), CUDA_SAMPLES if device == "cuda" else LEAST_SAMPLES)


def requested_windows(
    positions: int,
    device: str,
    *,
    samples: int | None = None,
    sequence_length: int | None = None,
    evaluation_length: int | None = None,
) -> Windows:
    """The windows of a job whose model has a context of ``positions`` tokens; what is None is as usual.

    Args:
        device: cpu or cuda, where the model will run.

    Raises:
        InvalidInput: naming the field.
    """
    length = checked_length(sequence_length, positions, "sequence_length")
    evaluation = checked_length(evaluation_length, positions, "evaluation_length")
    if samples is not None and not LEAST_SAMPLES <= samples <= MOST_SAMPLES:
        raise InvalidInput.of("samples", samples, f"a whole number from {LEAST_SAMPLES} to {MOST_SAMPLES}")
    usual = usual_length(positions, device)
    return Windows(length or usual, evaluation or usual, samples or usual_samples(length or usual, device))


def checked_length(length: int | None, positions: int, field: str) -> int | None:
    """A window length that a request names, None where it names none.

    Raises:
        InvalidInput: shorter than ``LEAST_WINDOW_TOKENS``, or longer than the model's context.
    """
    longest = min(positions, MOST_WINDOW_TOKENS)
    if length is not None and not min(LEAST_WINDOW_TOKENS, longest) <= length <= longest:
        allowed = f"a number of tokens from {min(LEAST_WINDOW_TOKENS, longest)} to {longest}, the longest that the model takes"
        raise InvalidInput.of(field, length, allowed)
    return length


def measured_windows(solution: Mapping[str, Any], positions: int, device: str) -> Windows:
    """The windows of a profile, by the ``solution`` part of its identity, for what is compared with it.

    A file may have brought the profile: where it says what no job could have, the usual windows stand for it, and comparing
    refuses it.
    """
    length, samples = solution.get("window_tokens"), solution.get("fit_windows")
    usual = usual_length(positions, device)
    if not isinstance(length, int) or not 1 <= length <= positions:
        length = usual
    if not isinstance(samples, int) or samples < 1:
        samples = usual_samples(length, device)
    return Windows(length, usual, samples)
