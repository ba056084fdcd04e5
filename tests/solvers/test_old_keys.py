"""Rotary positions in config.json, as readers before transformers 5 look for them, beside what transformers 5 reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.exports import config_of, edited, exported
from tests.support.models import case_id, save, tiny, token_ids
from tests.support.processes import ROOT

THETA = 500_000.0
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FACTORS = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}


def rotary(kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": THETA, **more}}


def old(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_theta": THETA, "rope_scaling": {"rope_type": kind, "type": kind, **more}}


DEFAULT = {"rope_theta": THETA, "rope_scaling": None}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(
        (family, rotary(), DEFAULT)
        for family in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "mixtral")
    ),
    ("llama", rotary("llama3", **LLAMA3), old("llama3", **LLAMA3)),
    ("llama", rotary("linear", factor=4.0), old("linear", factor=4.0)),
    ("llama", rotary("dynamic", factor=2.0), old("dynamic", factor=2.0)),
    ("qwen2", rotary("yarn", factor=4.0), old("yarn", factor=4.0)),
    (
        "qwen3",
        rotary("yarn", factor=4.0, original_max_position_embeddings=16),
        old("yarn", factor=4.0, original_max_position_embeddings=16),
    ),
    (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": THETA, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
            }
        },
        {**old("linear", factor=8.0), "rope_local_base_freq": 700.0},
    ),
    ("gemma3_text", {}, {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rope_scaling": None}),
    (
        "gpt_neox",
        {"hidden_size": 32, **rotary(partial_rotary_factor=0.5)},
        {**DEFAULT, "rotary_emb_base": THETA, "rotary_pct": 0.5},
    ),
    ("phi3", rotary(), {**DEFAULT, "partial_rotary_factor": 1.0}),
    (
        "phi3",
        {
            "hidden_size": 32,
            "original_max_position_embeddings": 32,
            **rotary("longrope", partial_rotary_factor=0.5, **FACTORS),
        },
        {
            "rope_theta": THETA,
            "rope_scaling": {"type": "longrope", **FACTORS},
            "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 32,
        },
    ),
]
OLD = (
    *("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor"),
    *("rotary_emb_base", "rotary_pct", "torch_dtype"),
)


@torch.no_grad()
@pytest.mark.parametrize(("family", "options", "keys"), CASES, ids=case_id)
def test_both_ways_of_writing_positions_mean_the_same(
    family: str, options: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    save(tiny(family, **options).float(), tmp_path / "source")
    ids = token_ids(2, 40)

    def logits(folder: Path) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager")
        return torch.as_tensor(model(ids).logits)

    for folder in exported(tmp_path / "source", tmp_path):
        written = config_of(folder)
        assert {name: written[name] for name in keys} == keys
        assert "rope_parameters" in written
        before = logits(folder)
        (folder / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k not in OLD}))
        assert torch.equal(logits(folder), before), "by the new key alone"
        (folder / "config.json").write_text(
            json.dumps({k: v for k, v in written.items() if k != "rope_parameters"})
        )
        assert torch.equal(logits(folder), before), "by the old keys alone"
        if THETA in keys.values():
            edited(folder, **dict.fromkeys(OLD))
            assert not torch.allclose(logits(folder), before, atol=1e-4), "they are what tells"


@pytest.mark.parametrize("family", ["gpt2", "opt", "mpt"])
def test_families_without_rotary_positions_get_none(family: str, tmp_path: Path) -> None:
    save(tiny(family).float(), tmp_path / "source")
    for folder in exported(tmp_path / "source", tmp_path):
        assert not set(OLD) - {"torch_dtype"} & config_of(folder).keys()
        assert config_of(folder)["torch_dtype"] == config_of(folder)["dtype"] == "float32"


def test_an_older_transformers_is_told_what_a_compact_checkpoint_needs(tmp_path: Path) -> None:
    """As with transformers 4.57, whose package lacks a name: here one that lacks them all."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("__version__ = '4.57.1'\n")
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "solvers" / "modeling_rankalloc.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = (
        "needs transformers 5: pip install -U 'transformers>=5'; the padded one loads in older versions too"
    )
    assert said in done.stderr.splitlines()[-1]
