"""What no adapter handles is refused from config and headers alone, before any weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from solvers.checkpoints import reading
from solvers.errors import ModelError, UnreadableModelError, UnsupportedModelError
from solvers.families import FAMILIES
from tests.support.models import CASES, SLIDING_QWEN, case_id, save, tiny


def changed(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
def test_every_family_is_read_with_its_sizes(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(family, **options).float()
    save(model, tmp_path)
    sizes, geometry = reading.inspect(tmp_path).sizes, FAMILIES[family].geometry(model.config)
    assert sizes["hidden"] == geometry["hidden"]
    assert (sizes["layers"], sizes["heads"], sizes["vocab"], sizes["positions"]) == (2, 4, 61, 64)
    assert sizes.get("kv_heads", 4) == geometry["kv_heads"]


@pytest.mark.parametrize("family", ["mamba", "t5", "", None])
def test_another_family_is_refused_with_the_list_of_those_that_are_known(family: Any, tmp_path: Path) -> None:
    save(tiny("llama").float(), tmp_path)
    with pytest.raises(UnsupportedModelError) as caught:
        reading.inspect(changed(tmp_path, model_type=family))
    assert repr(family) in str(caught.value)
    assert str(caught.value).endswith(f"supported: {', '.join(sorted(FAMILIES))}")


OPTIONS: list[tuple[str, dict[str, Any], dict[str, Any], type[ModelError], str]] = [
    ("gpt2", {}, {"add_cross_attention": True}, UnsupportedModelError, "cross attention"),
    ("gemma3_text", {}, {"use_bidirectional_attention": True}, UnsupportedModelError, "only causal"),
    ("opt", {}, {"word_embed_proj_dim": 12}, UnsupportedModelError, "word_embed_proj_dim 12"),
    ("mpt", {}, {"attn_config": {"clip_qkv": 6.0}}, UnsupportedModelError, "clip_qkv"),
    ("mpt", {}, {"attn_config": {"alibi": False}}, UnsupportedModelError, "alibi"),
    ("mpt", {}, {"max_seq_len": 10**12}, UnreadableModelError, "max_seq_len"),
    ("mpt", {}, {"attn_config": [1]}, UnreadableModelError, "must be an object"),
    ("mixtral", {}, {"num_experts_per_tok": 4}, UnreadableModelError, "4 experts of 3"),
    ("llama", {}, {"partial_rotary_factor": 0.5}, UnsupportedModelError, "only a part of each head"),
    ("llama", {}, {"rope_scaling": {"partial_rotary_factor": 0.5}}, UnsupportedModelError, "only a part"),
    ("llama", {}, {"sliding_window": 9}, UnsupportedModelError, "llama models with a sliding window"),
    ("phi3", {}, {"rope_parameters": {"partial_rotary_factor": 0.5}}, UnreadableModelError, "need pairs"),
    ("gpt_neox", {}, {"rope_parameters": {}, "rotary_pct": "all"}, UnreadableModelError, r"in \(0, 1\]"),
    ("gpt_neox", {}, {"rope_parameters": {"partial_rotary_factor": 1e-9}}, UnreadableModelError, "zero"),
    ("mistral", {}, {"sliding_window": 0}, UnreadableModelError, "sliding_window is 0"),
    ("mistral", {}, {"sliding_window": "7"}, UnreadableModelError, "sliding_window is '7'"),
    ("mistral", {}, {"layer_types": ["full_attention"] * 2}, UnsupportedModelError, "mistral"),
    ("qwen2", {}, {"layer_types": ["sliding_attention"] * 2}, UnreadableModelError, "sliding_window is null"),
    ("qwen3", SLIDING_QWEN, {"layer_types": ["full_attention"]}, UnreadableModelError, "each of the 2"),
    ("gemma2", {}, {"layer_types": ["chunked_attention"] * 2}, UnsupportedModelError, "chunked_attention"),
    ("gemma2", {}, {"num_key_value_heads": 3}, UnreadableModelError, "cannot share 3"),
]


@pytest.mark.parametrize(("family", "options", "changes", "error", "says"), OPTIONS, ids=case_id)
def test_options_without_an_adapter_are_refused(
    family: str,
    options: dict[str, Any],
    changes: dict[str, Any],
    error: type[ModelError],
    says: str,
    tmp_path: Path,
) -> None:
    save(tiny(family, **options).float(), tmp_path)
    with pytest.raises(error, match=says):
        reading.inspect(changed(tmp_path, **changes))


def test_absent_keys_mean_what_the_stock_config_class_means(tmp_path: Path) -> None:
    """Gemma's heads have 256 dimensions unless its config says otherwise, whatever hidden / heads is."""
    save(tiny("gemma", kv_heads=4, head_dim=256, num_attention_heads=4).float(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert reading.load(reading.inspect(tmp_path)).config.head_dim == 256
