"""Compact checkpoints of the example models, cut by A3 at uniform ranks that divide by nothing in particular."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.cuts import Cut, cut

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "models"


@dataclass(frozen=True)
class Compact:
    """A written checkpoint and the cut it was written from."""

    folder: Path
    cut: Cut

    def load(self, **options: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, **options).eval()

    @property
    def held_out(self) -> torch.Tensor:
        """Eight windows of the evaluation text, (8, 256)."""
        return self.cut.evaluation.windows[:8]


def compact(name: str, folder: Path, **options: Any) -> Compact:
    source = EXAMPLES / name
    texts = (source / "calibration.txt", source / "evaluation.txt")
    made = cut(source, *texts, fit_windows=24, **options)
    return Compact(made.write(folder), made)


@pytest.fixture(scope="session", params=["pylm-llama", "pylm-gpt2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compact:
    """Each example model at 80 % of its block parameters."""
    return compact(request.param, tmp_path_factory.mktemp(request.param), block_params="0.8")


@torch.no_grad()
def kl_nats(one: Any, other: Any, windows: torch.Tensor) -> float:
    """Mean KL(one || other) in nats/token by its definition, in float64."""
    p, q = (model(windows).logits.double().log_softmax(-1) for model in (one, other))
    return float((p.exp() * (p - q)).sum(-1).mean())
