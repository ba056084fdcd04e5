"""Seconds of one dense forward over the calibration tokens, logits included: what forward-equivalents are counted in.

``python -m benchmarks.dense_forward MODEL TEXT`` prints them, in a process that is set up as a stage's is.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from allocator.base.settings import Settings
from allocator.plan.effort import FIT_WINDOWS, MAX_WINDOW_TOKENS, windows_scale
from allocator.profiling.logits import batches, logits_of
from allocator.stages.inputs import set_up_torch
from solvers.checkpoints import reading
from solvers.texts.text import read_text

TOKENS = FIT_WINDOWS * MAX_WINDOW_TOKENS


def dense_forward(folder: Path, calibration: Path) -> dict[str, Any]:
    """``seconds`` for ``TOKENS``, scaled up from ``tokens`` where the text has fewer, and the ``threads`` they took."""
    set_up_torch(Settings())
    inspected = reading.inspect(folder)
    window = min(MAX_WINDOW_TOKENS, inspected.sizes["positions"])
    text = read_text(calibration, folder, window=window, what="calibration")
    windows = text.fit(FIT_WINDOWS * windows_scale(window))
    model, parts = reading.load(inspected), list(batches(windows, inspected.sizes["vocab"]))

    def run(some: list[torch.Tensor]) -> float:
        started = time.perf_counter()
        for _ in logits_of(model, some):
            pass
        return time.perf_counter() - started

    run(parts[:1])  # whatever the first call sets up
    seconds = run(parts) * TOKENS / windows.numel()
    return {"seconds": seconds, "tokens": windows.numel(), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dense_forward(*map(Path, sys.argv[1:]))))
