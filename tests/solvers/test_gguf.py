"""GGUF files in stock llama.cpp: the same continuations and log-probabilities as the compact checkpoint in transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.registry import TARGETS
from solvers.errors import UnsupportedModelError
from solvers.families import FAMILIES
from solvers.gguf import check, write_gguf
from solvers.modeling_rankalloc import COMPACT
from tests.support.gguf import VOCAB, Rows, compact, log_probabilities, not_ascii, source
from tests.support.llama_cpp import LlamaCpp
from tests.support.models import SLIDING_QWEN, token_ids

CLOSE = 3e-3
"""Nats between log-probabilities: float16 weights are the same on both sides, but llama.cpp keeps K and V, and the inputs of
its products, in float16 too. Without the permutation, the factors of frequencies or the scale of scores it is 3e-2 and more."""
PROMPT = token_ids(1, 40, vocab=VOCAB, seed=5)[0].tolist()
"""Longer than the windows of tiny models."""
NEW = 10
CELLS = 64 * 1024


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0, **options},
        "max_position_embeddings": 128,
    }


LLAMA3 = rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = rope("yarn", original_max_position_embeddings=32)
DENSE: Rows = [{"qk": 8, "ov": 8, "mlp": 40}] * 2
ONE_MLP: Rows = [{"qk": 8, "ov": 8, "mlp": 24}] * 2
FREE_MLP: Rows = [{"qk": 8, "ov": 8, "mlp": 40}, {"qk": 8, "ov": 8, "mlp": 24}]
CUT_OV: Rows = [{"qk": 8, "ov": 5, "mlp": 24}] * 2
CASES: list[tuple[str, dict[str, Any], Rows, str]] = [
    ("llama", {}, DENSE, "llama"),
    ("llama", {}, FREE_MLP, "deci"),
    ("llama", {"attention_bias": True, **LLAMA3}, FREE_MLP, "deci"),
    ("llama", {}, CUT_OV, "step35"),
    ("llama", LLAMA3, CUT_OV, "step35"),
    ("llama", rope("linear"), CUT_OV, "step35"),
    ("mistral", {}, CUT_OV, "step35"),
    ("mistral", {"sliding_window": None}, FREE_MLP, "deci"),
    ("qwen2", {"num_attention_heads": 3, "kv_heads": 1}, ONE_MLP, "qwen2"),
    ("qwen2", {"num_attention_heads": 3, "kv_heads": 1, **YARN}, FREE_MLP, "deci"),
    ("qwen2", {"num_attention_heads": 3, "kv_heads": 1, **SLIDING_QWEN}, CUT_OV, "step35"),
    ("qwen3", {}, ONE_MLP, "qwen3"),
    ("qwen3", {"tie_word_embeddings": True}, FREE_MLP, "openelm"),
    ("qwen3", rope("yarn", original_max_position_embeddings=32, attention_factor=1.5), CUT_OV, "step35"),
    ("gemma", {"kv_heads": 1}, ONE_MLP, "gemma"),
    ("gemma2", {}, ONE_MLP, "gemma2"),
    ("gemma3_text", {}, ONE_MLP, "gemma3"),
]


@pytest.mark.parametrize(
    ("family", "options", "rows", "graph"), CASES, ids=[f"{n}-{c[0]}-{c[3]}" for n, c in enumerate(CASES)]
)
def test_llama_cpp_computes_what_transformers_does(
    family: str, options: dict[str, Any], rows: Rows, graph: str, tmp_path: Path
) -> None:
    dense = source(tmp_path / "source", family, **options)
    check(dense, AutoConfig.from_pretrained(dense))
    folder = compact(dense, tmp_path / "compact", rows)
    write_gguf(folder, tmp_path / "gguf")
    file = tmp_path / "gguf" / "model.gguf"
    assert GGUFReader(file).fields["general.architecture"].contents() == graph
    without = not_ascii(folder)
    with LlamaCpp(file) as served:
        plain = served.tokens("a", special=False)[0]
        ids = PROMPT + served.continued(PROMPT, NEW, without=without)
        found = [served.log_probabilities(ids[:end], VOCAB, plain=plain) for end in (1, 40, 45)]
    expected = log_probabilities(folder, ids)
    greedy = expected[39:-1].index_fill(1, torch.tensor(without), -torch.inf).argmax(-1)
    assert ids[40:] == greedy.tolist()
    for row, end in zip(found, (1, 40, 45), strict=True):
        assert torch.tensor(row) == pytest.approx(expected[end - 1], abs=CLOSE)


@pytest.mark.parametrize(
    ("family", "rows", "cells"),
    [
        ("llama", FREE_MLP, CELLS),
        ("llama", CUT_OV, CELLS),
        # The window of 7, a batch of 512, rounded up to 256.
        ("mistral", CUT_OV, 768),
    ],
)
def test_the_cache_that_it_allocates_is_what_the_plan_counts(
    family: str, rows: Rows, cells: int, tmp_path: Path
) -> None:
    dense = source(tmp_path / "source", family, max_position_embeddings=2 * CELLS)
    write_gguf(compact(dense, tmp_path / "compact", rows), tmp_path / "gguf")
    with LlamaCpp(tmp_path / "gguf" / "model.gguf", context=CELLS - 200) as served:
        served.tokens("a")
        log = served.close()
    # A first pass without memory, which sees what would fit, tells of 0 MiB.
    told = sum(map(float, re.findall(r"KV buffer size = +([0-9.]+) MiB", log)))
    geometry = Geometry(
        **FAMILIES[family].geometry(AutoConfig.from_pretrained(dense)),
        total_params=AutoModelForCausalLM.from_pretrained(dense).num_parameters(),
        bytes_per_param=2,
    )
    costs = CostModel(geometry, target=TARGETS["llama.cpp"])
    ranks = Ranks(*(tuple(row[c] for row in rows) for c in ("qk", "ov", "mlp")))
    memory = parse_budgets([f"memory=1@context={CELLS - 200}"])[0].metric
    weights = parse_budgets(["weight_bytes=1"])[0].metric
    counted = costs.total(memory, ranks) - costs.total(weights, ranks)
    assert counted == cells * costs.total(Metric("kv_bytes_per_token"), ranks)
    assert told == pytest.approx(counted / 2**20, abs=0.006)


def test_scores_of_given_tokens_side_by_side(tmp_path: Path) -> None:
    """What the benchmark of perplexities reads, of tokens that end within a character too."""
    dense = source(tmp_path / "source", "llama")
    folder = compact(dense, tmp_path / "compact", FREE_MLP)
    write_gguf(folder, tmp_path / "gguf")
    windows = [PROMPT[:20], PROMPT[20:], PROMPT[5:17]]
    assert set(not_ascii(folder)) & set(PROMPT)
    with LlamaCpp(tmp_path / "gguf" / "model.gguf", context=CELLS // 256, sequences=2) as served:
        found = served.scores(windows, VOCAB)
    for ids, row in zip(windows, found, strict=True):
        expected = log_probabilities(folder, ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert torch.tensor(row) == pytest.approx(expected, abs=CLOSE)


def test_eight_bits_where_rows_are_whole_blocks(tmp_path: Path) -> None:
    rows = [{"qk": 8, "ov": 8, "mlp": 64}, {"qk": 8, "ov": 8, "mlp": 40}]
    dense = source(tmp_path / "source", "llama", hidden_size=32, intermediate_size=64)
    folder = compact(dense, tmp_path / "compact", rows)
    write_gguf(folder, tmp_path / "gguf")
    file = tmp_path / "gguf" / "model-q8_0.gguf"
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert kinds["blk.0.ffn_down.weight"] is kinds["token_embd.weight"] is GGMLQuantizationType.Q8_0
    assert kinds["blk.1.ffn_down.weight"] is GGMLQuantizationType.F16  # rows of 40
    assert kinds["blk.0.attn_norm.weight"] is GGMLQuantizationType.F32
    with LlamaCpp(file) as served:
        plain = served.tokens("a", special=False)[0]
        found = served.log_probabilities(PROMPT, VOCAB, plain=plain)
    assert torch.tensor(found) == pytest.approx(log_probabilities(folder, PROMPT)[-1], abs=0.05)


@pytest.mark.parametrize(
    ("family", "options", "rows", "says"),
    [
        (
            "llama",
            {},
            [{"qk": 8, "ov": 8, "mlp": 40}, {"qk": 4, "ov": 8, "mlp": 40}],
            "layer 1 qk has rank 4 of 8",
        ),
        (
            "llama",
            {},
            [{"qk": 8, "ov": 8, "mlp": 40}, {"qk": 8, "ov": 5, "mlp": 40}],
            "layer 1 ov has rank 5, layer 0 8",
        ),
        (
            "llama",
            {},
            [{"qk": 8, "ov": 5, "mlp": 40}, {"qk": 8, "ov": 5, "mlp": 24}],
            "step35 has one MLP rank",
        ),
        ("llama", {"attention_bias": True}, CUT_OV, "step35 has no biases on outputs"),
        ("mistral", {}, FREE_MLP, "deci has no sliding windows"),
        ("qwen3", {}, FREE_MLP, "openelm takes its head from its embeddings"),
        ("gemma2", {}, FREE_MLP, "gemma2 has one MLP rank"),
        ("gemma", {}, CUT_OV, "gemma has values as wide as keys"),
    ],
)
def test_no_file_where_no_graph_holds_the_ranks(
    family: str, options: dict[str, Any], rows: Rows, says: str, tmp_path: Path
) -> None:
    folder = compact(source(tmp_path / "source", family, **options), tmp_path / "compact", rows)
    with pytest.raises(UnsupportedModelError, match=says):
        write_gguf(folder, tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("gpt2", {}, "gpt2 models are not written"),
        ("phi3", {}, "phi3 models are not written"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", rope("dynamic"), "type 'dynamic' are not written"),
        ("qwen2", rope("yarn", original_max_position_embeddings=32, beta_fast=16), "beta_fast is 16"),
        ("mistral", rope("linear"), "layers with a window are not scaled"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping is not set"),
        ("qwen3", {"attention_bias": True}, "has no biases"),
    ],
)
def test_a_model_is_refused_before_it_is_measured(
    family: str, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    folder = source(tmp_path, family)
    kind, _ = COMPACT[family]
    config = AutoConfig.from_pretrained(folder)
    for name, value in options.items():
        setattr(config, name, value)
    assert isinstance(config, kind.__mro__[2])
    with pytest.raises(UnsupportedModelError, match=says):
        check(folder, config)
