"""What a serving engine needs of a compact checkpoint, with no engine installed: the size of every layer's cache in its config,
a model without a head, and attention through the interface in heads of that one size. ``make check-vllm`` runs the engine.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.registry import TARGETS
from solvers.checkpoints.head_sizes import everywhere, per_layer_config
from solvers.families import FAMILIES
from solvers.modeling_rankalloc import MixedRankAttention
from tests.support.exports import exported
from tests.support.models import save, tiny, token_ids
from tests.support.processes import ROOT
from tests.support.profiles import SMALL

SERVED = [family for family in FAMILIES if family != "mpt"]


def test_the_smallest_size_that_a_kernel_takes() -> None:
    ranks = (1, 32, 33, 64, 65, 100, 128, 129, 256, 257, 600)
    assert [everywhere(rank) for rank in ranks] == [32, 32, 64, 64, 80, 112, 128, 160, 256, 512, 600]
    on_cuda = TARGETS["vllm"].head_size
    assert on_cuda is not None
    assert [on_cuda(rank) for rank in (1, 8, 9, 33, 64, 250)] == [8, 8, 16, 40, 64, 256]
    # Whichever of QK and OV is larger: keys and values of a layer are held alike.
    assert per_layer_config([20, 70], [40, 8], everywhere) == {0: {"head_dim": 64}, 1: {"head_dim": 80}}
    # Layers with and without a window share blocks of one size.
    assert per_layer_config([20, 70], [40, 8], everywhere, (7, 7)) == {
        0: {"head_dim": 64},
        1: {"head_dim": 80},
    }
    assert per_layer_config([20, 70], [40, 8], everywhere, (7, 0)) == {
        0: {"head_dim": 80},
        1: {"head_dim": 80},
    }


@pytest.mark.parametrize("target", ["vllm", "vllm-cpu"])
def test_the_config_names_the_sizes_that_plans_count(target: str) -> None:
    rule = TARGETS[target].head_size
    assert rule is not None
    if target == "vllm-cpu":
        assert [rule(rank) for rank in range(1, 513)] == [everywhere(rank) for rank in range(1, 513)]
    metric = Metric("kv_bytes_per_token")
    for layer in range(8):
        qk, ov = (2 * layer + 2, 16 - layer), (16 - layer, 2 * layer + 1)
        sizes = per_layer_config(qk, ov, rule).values()
        allocated = 2 * SMALL.kv_heads * SMALL.bytes_per_param * sum(size["head_dim"] for size in sizes)
        counted = CostModel(SMALL, target=TARGETS[target]).total(metric, Ranks(qk, ov, (128, 128)))
        assert counted == allocated


def written(family: str, root: Path, **options: Any) -> Path:
    """The compact export of a tiny model."""
    save(tiny(family, **options).float(), root / "source")
    return exported(root / "source", root)[0]


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("llama", {"head_dim": 32}), ("gemma2", {}), ("gpt2", {}), ("opt", {})],
)
def test_the_config_says_the_cache_of_every_layer_and_keeps_the_heads_of_the_source(
    family: str, options: dict[str, int], tmp_path: Path
) -> None:
    source = AutoConfig.from_pretrained(written(family, tmp_path, **options).parent / "source")
    config = AutoConfig.from_pretrained(tmp_path / "compact")
    for _ in range(2):
        assert [config.per_layer_config[layer].head_dim for layer in range(2)] == [32, 32]
        assert getattr(config, "head_dim", None) == getattr(source, "head_dim", None)
        with torch.device("meta"):
            bare = AutoModel.from_config(config)
        attentions = [module for module in bare.modules() if isinstance(module, MixedRankAttention)]
        assert [attention.head_size for attention in attentions] == [32, 32]
        config.save_pretrained(tmp_path / "again")
        config = AutoConfig.from_pretrained(tmp_path / "again")


def test_the_sizes_that_the_docs_tell_to_serve_with_are_taken(tmp_path: Path) -> None:
    """``--hf-overrides`` updates the config with its value."""
    page = (ROOT / "docs" / "how-to" / "vllm.md").read_text(encoding="utf-8")
    line = re.search(r"^    (vllm serve .* --hf-overrides .*)$", page, re.MULTILINE)
    assert line is not None
    config = AutoConfig.from_pretrained(written("llama", tmp_path))
    config.update(json.loads(shlex.split(line[1])[-1]))
    assert [config.per_layer_config[layer].head_dim for layer in range(2)] == [40, 48]
    with torch.device("meta"):
        bare = AutoModel.from_config(config)
    attentions = [module for module in bare.modules() if isinstance(module, MixedRankAttention)]
    assert [attention.head_size for attention in attentions] == [40, 48]


Kept = dict[int, tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def caches() -> Iterator[Kept]:
    """Layer -> the keys and values that an engine's attention was given last. There is such an attention while this lives:
    it holds queries, keys and values of one size, makes its own causal mask, and returns (T, H size) as vLLM's does.
    """
    kept: Kept = {}

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        assert attention_mask is None
        kept[module.layer_idx] = key, value
        tokens, group = query.shape[2], query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
        scores = query @ key.mT * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        age = torch.arange(tokens)[:, None] - torch.arange(tokens)
        hidden = (age < 0) | (age >= (sliding_window or tokens))
        output = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
        return output.transpose(1, 2).reshape(tokens, -1), None

    ALL_ATTENTION_FUNCTIONS["vllm"] = attend
    yield kept
    del ALL_ATTENTION_FUNCTIONS["vllm"]


@torch.no_grad()
@pytest.mark.parametrize("family", SERVED)
def test_a_bare_model_attends_through_an_engine_in_heads_of_the_promised_size(
    family: str, tmp_path: Path, caches: Kept
) -> None:
    compact, ids = written(family, tmp_path), token_ids(1, 20)
    whole = AutoModelForCausalLM.from_pretrained(compact, dtype=torch.float32).eval()
    expected = whole(ids, output_hidden_states=True).hidden_states[-1]
    loaded = AutoModel.from_pretrained(compact, dtype=torch.float32, attn_implementation="vllm").eval()
    assert type(loaded).__name__ in (compact / "config.json").read_text()
    bare = AutoModel.from_config(loaded.config, dtype=torch.float32, attn_implementation="vllm").eval()
    inputs = {"use_cache": False, "position_ids": torch.arange(20)[None]}
    bare(ids, **inputs)  # an engine traces a model, or warms it up, before its weights are there
    bare.load_state_dict(loaded.state_dict())
    found = bare(ids, **inputs).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-5)
    assert sorted(caches) == [0, 1]
    for layer, (key, value) in caches.items():
        assert key.shape == value.shape
        assert key.shape[-1] == bare.config.per_layer_config[layer].head_dim == 32
        assert not key[..., whole.config.qk_ranks[layer] :].any()
        assert not value[..., whole.config.ov_ranks[layer] :].any()


@pytest.mark.usefixtures("caches")
def test_biases_by_position_are_refused_since_an_engine_would_drop_them(tmp_path: Path) -> None:
    compact = written("mpt", tmp_path)
    with pytest.raises(ValueError, match="mpt: its ALiBi biases do not reach vLLM's attention"):
        AutoModel.from_pretrained(compact, attn_implementation="vllm")


@pytest.mark.parametrize("family", SERVED)
def test_every_matrix_of_rank_sizes_is_split_by_heads_or_neurons(family: str, tmp_path: Path) -> None:
    bare = AutoModel.from_pretrained(written(family, tmp_path))
    plan = bare.config.base_model_tp_plan
    layers = FAMILIES[family].architecture.layers_of(bare)
    prefix = FAMILIES[family].architecture.layers.partition(".")[2]
    linear = [name for name, module in layers[0].named_modules() if isinstance(module, nn.Linear)]
    named = {name: plan.get(f"{prefix}.*.{name}") for name in linear if not name.endswith("mlp.gate")}
    rowwise = {name for name, how in named.items() if how == "rowwise"}
    assert {name.rpartition(".")[2] for name in rowwise} - {"down_proj"} == {"o_proj"}
    assert {how for name, how in named.items() if name not in rowwise} == {"colwise"}
