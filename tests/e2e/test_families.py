"""``rankalloc compress`` on families with something left whole, windows or partly rotated heads: from text to report."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.command import run
from tests.support.models import SLIDING_QWEN, save, tiny


def words(count: int, seed: int) -> str:
    """Text whose words are not equally frequent, in the vocabulary of the tiny models."""
    draw = random.Random(seed)
    return " ".join(f"w{min(60, int(draw.expovariate(0.08)))}" for _ in range(count))


def source_of(folder: Path, family: str, options: dict[str, Any]) -> Path:
    """A tiny model's folder with its calibration text."""
    source = folder / "source"
    save(tiny(family, **options).float(), source)
    (source / "calibration.txt").write_text(words(4000, 0))
    return source


@pytest.mark.parametrize(
    ("family", "options", "budget", "whole"),
    [
        ("qwen3", SLIDING_QWEN, "block_params=0.8", {"qk": 8}),
        ("mixtral", {}, "block_params=0.96", {"mlp": 40}),
        ("gpt_neox", {}, "block_params=0.7", {}),
    ],
)
def test_a_job_compresses_what_the_family_allows(
    family: str,
    options: dict[str, Any],
    budget: str,
    whole: dict[str, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = source_of(tmp_path, family, options)
    (source / "evaluation.txt").write_text(words(2000, 1))
    code, out, err = run(
        capsys, monkeypatch, tmp_path / "home", "compress", source, "--budget", budget,
        "--budget", "memory=0.99@batch=4,context=64", "--effort", "fast", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    plan = json.loads(out)["plan"]
    for component, rank in whole.items():
        assert {row[component] for row in plan["ranks"]} == {rank}
    assert any(row["ov"] < 8 or row["qk"] < 8 for row in plan["ranks"])
    assert plan["measured_loss_nats"] < 0.05
    assert {"compact", "padded", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}


@torch.no_grad()
def test_normalized_queries_are_made_of_latents_and_stay_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path, "qwen3", SLIDING_QWEN)
    (source / "evaluation.txt").write_text(words(2000, 1))
    code, out, err = run(
        capsys, monkeypatch, tmp_path / "home", "compress", source, "--budget", "block_params=0.95",
        "--pin", "0-1.ov=dense", "--pin", "0-1.mlp=dense", "--solver", "a3+latent", "--baselines", "all",
        "--export", "compact,padded", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert {(row["qk"], row.get("qk_form")) for row in plan["ranks"]} <= {(2, "latent"), (8, None)}
    assert plan["measured_loss_nats"] == pytest.approx(plan["predicted_loss_nats"], rel=0.5)
    compact, padded = (
        AutoModelForCausalLM.from_pretrained(
            tmp_path / "out" / name, dtype=torch.float32, trust_remote_code=name == "compact"
        )
        for name in ("compact", "padded")
    )
    assert sorted(compact.config.query_latents)[-1] == 2 * compact.config.num_attention_heads
    ids = torch.arange(3, 23)[None]
    assert torch.allclose(compact(ids).logits, padded(ids).logits, atol=1e-4)
