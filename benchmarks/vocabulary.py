"""How long a vocabulary takes by how much of it is computed at once: ``python -m benchmarks.vocabulary [--fill]``.

Heads of known sizes with random weights run through the code that evaluation uses: the logits of two models and the KL between
them; by 16 MiB of logits at a time, and as the code has it. The losses of both must agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from unittest import mock

import torch

from allocator.base.settings import Settings
from allocator.profiling import logits
from allocator.profiling.divergence import DenseDistribution
from allocator.stages.inputs import set_up_torch
from benchmarks.allocation import ROOT
from tests.support.pages import fill

HEADS = {"SmolLM2-135M": (49_152, 576), "Llama-3.1-8B": (128_256, 4096), "Gemma-3-270M": (262_144, 640)}
"""Name -> words of the vocabulary and width."""
ONE_SIZE_BYTES = 16 << 20
"""Of logits, computed and compared at once: one size for both."""
TOKENS = 512


@dataclass(frozen=True)
class Taken:
    """Milliseconds per token, and the losses (N,) that came out."""

    head_ms: float
    kl_ms: float
    kl: torch.Tensor


@torch.no_grad()
def taken(
    head: torch.nn.Linear, states: tuple[torch.Tensor, torch.Tensor], tokens: int, cached: int
) -> Taken:
    """The logits of two models at states (N, D) and their KL.

    Args:
        tokens: how many are computed at once.
        cached: bytes of logits that are compared at once.
    """
    head_s = kl_s = 0.0
    losses = []
    with mock.patch.multiple(logits, _HEAD_TOKENS=tokens, _CACHED_BYTES=cached):
        for part in logits.token_slices(len(states[0])):
            started = time.perf_counter()
            dense, other = (head(each[None, part]) for each in states)
            computed = time.perf_counter()
            losses.append(DenseDistribution(dense).kl(other)[0])
            head_s += computed - started
            kl_s += time.perf_counter() - computed
    scale = 1000 / len(states[0])
    return Taken(head_s * scale / len(states), kl_s * scale, torch.cat(losses))


def measured(words: int, width: int) -> tuple[Taken, Taken]:
    """By one size for both and as the code has it, in turns; the shorter of two each.

    Raises:
        SystemExit: the losses differ.
    """
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(width, words, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        head.weight.normal_(std=width**-0.5, generator=generator)
    dense = torch.randn(TOKENS, width, generator=generator)
    states = dense, dense + 0.1 * torch.randn(TOKENS, width, generator=generator)
    ways = (
        (max(1, ONE_SIZE_BYTES // (4 * words)), ONE_SIZE_BYTES),
        (logits._HEAD_TOKENS, logits._CACHED_BYTES),
    )
    rounds = [[taken(head, states, *way) for way in ways] for _ in range(2)]
    one_size, now = (
        min(times, key=lambda each: each.head_ms + each.kl_ms) for times in zip(*rounds, strict=True)
    )
    if not torch.allclose(one_size.kl, now.kl, rtol=1e-3, atol=1e-7):
        raise SystemExit("the losses depend on how much is computed at once")
    return one_size, now


def table() -> str:
    """Markdown: milliseconds a token, and what is left of them."""
    lines = [
        f"| head | words | tokens at once | logits of a token | KL of a token | both of {TOKENS} tokens |",
        "|---" * 6 + "|",
    ]
    for name, (words, width) in HEADS.items():
        one_size, now = measured(words, width)
        whole = (2 * now.head_ms + now.kl_ms) / (2 * one_size.head_ms + one_size.kl_ms)
        tokens = f"{max(1, ONE_SIZE_BYTES // (4 * words))} → {logits._HEAD_TOKENS}"
        lines.append(
            f"| {name} | {words:,} | {tokens} | {now.head_ms / one_size.head_ms:.2f} | {now.kl_ms / one_size.kl_ms:.2f} "
            f"| {whole:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vocabulary", description=__doc__)
    parser.add_argument("--fill", action="store_true", help="put the table into docs/explanation/scale.md")
    options = parser.parse_args(argv)
    set_up_torch(Settings())
    shown = table()
    if options.fill:
        fill(ROOT / "docs" / "explanation" / "scale.md", {"vocabulary": shown})
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()
