"""Time and memory of a healing's step by how many tokens have logits at once: ``python -m benchmarks.healing_step [--fill]``.

Models that people know, each its own teacher (a step takes the same whatever was cut), 512 random token ids. Once as the code
has it, once by whole windows: those whose logits take at most 128 MiB, one at least, which is what it was. Each in a process of
its own; the gradients of both must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM

from allocator.base.settings import Settings
from allocator.stages.inputs import set_up_torch
from benchmarks.allocation import ROOT, printed
from benchmarks.real_models import KNOWN, built, cache
from benchmarks.usage import process_bytes
from solvers.healing import distance
from solvers.healing.heal import trained_parameters
from tests.support.pages import fill

WINDOWS, TOKENS = 2, 256
WHOLE_WINDOWS_BYTES = 128 << 20


def _whole_windows(model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    of_window = 4 * model.config.vocab_size * batch.shape[1]
    return batch.split(max(1, WHOLE_WINDOWS_BYTES // of_window))


def _all(model: Any, tokens: int) -> Iterator[slice]:
    yield slice(0, tokens)


def step(folder: Path, *, whole: bool) -> dict[str, float]:
    """Seconds of the second of two steps, bytes that the steps add to the largest size of the process, and the gradients'
    norm.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    parameters = trained_parameters(model)
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.grad = torch.zeros_like(parameter)
    teacher = distance.Halves(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (WINDOWS, TOKENS), generator=generator)
    before, seconds = process_bytes(os.getpid()), 0.0
    with ExitStack() as patches:
        # A teacher that says something else, or there would be no gradient.
        softer = mock.patch.object(teacher, "states", lambda ids: 0.9 * distance.Halves.states(teacher, ids))
        patches.enter_context(softer)
        if whole:
            patches.enter_context(mock.patch.object(distance, "parts", _whole_windows))
            patches.enter_context(mock.patch.object(distance, "slices", _all))
        for _ in range(2):
            started = time.perf_counter()
            distance.backward(teacher, model, ids)
            seconds = time.perf_counter() - started
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    return {"seconds": seconds, "bytes": process_bytes(os.getpid()) - before, "norm": norm}


def table(names: list[str]) -> str:
    """Markdown.

    Raises:
        SystemExit: the gradients differ.
    """
    lines = [
        "| model | words | by whole windows, MB | by slices of tokens, MB | time |",
        "|---" * 5 + "|",
    ]
    for name in names:
        folder = built(KNOWN[name])
        whole, now = (
            printed(cache(), "benchmarks.healing_step", "--one", str(folder), way) for way in ("whole", "now")
        )
        if abs(now["norm"] / whole["norm"] - 1) > 0.01:
            raise SystemExit(f"{name}: the gradients depend on how much is computed at once")
        words = json.loads((folder / "config.json").read_text())["vocab_size"]
        lines.append(
            f"| {KNOWN[name].name} | {words:,} | {whole['bytes'] / 1e6:,.0f} | {now['bytes'] / 1e6:,.0f} "
            f"| {now['seconds'] / whole['seconds']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.healing_step", description=__doc__)
    parser.add_argument("--fill", action="store_true", help="put the table into docs/explanation/scale.md")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WAY"), help="print one measurement as JSON")
    options = parser.parse_args(argv)
    set_up_torch(Settings())
    if options.one:
        folder, way = options.one
        sys.stdout.write(json.dumps(step(Path(folder), whole=way == "whole")) + "\n")
        return
    shown = table(list(KNOWN))
    if options.fill:
        fill(ROOT / "docs" / "explanation" / "scale.md", {"healing-step": shown})
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()
