"""Plans that the targets of llama.cpp hold, by sizes alone: exactly those that a graph of llama.cpp is found for, and whose
MLPs are in eight bits as far as the source's are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from allocator.base.errors import InvalidInput
from allocator.plan.ask.constraints import parse_constraints
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.llama_cpp import FAMILIES
from allocator.plan.targets.registry import TARGETS
from allocator.stages.exports import check_plan_exports
from solvers.errors import UnsupportedModelError
from solvers.families import FAMILIES as ADAPTERS
from solvers.gguf.architectures import architecture_of, shape_of
from tests.support.models import CASES, SLIDING_QWEN, tiny

UNIFORM_RATIO, BY_LAYER, BROKEN = (32, 32), (40, 32), (24, 24)
"""Of models whose MLPs have 40; the last has rows that are no whole blocks, and no full ones."""
MODELS = [
    *CASES,
    ("llama", {"kv_heads": 2}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 64}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("gemma", {"attention_bias": True}),
    ("qwen2", {**SLIDING_QWEN, "tie_word_embeddings": False}),
]


def dense_geometry(family: str, **changes: object) -> Geometry:
    sizes = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 128}
    rest = {"mlp_matrices": 3, "qk_step": 2, "qk_bias": False, "ov_bias": False, "mlp_bias": False}
    counts = {"vocab": 1000, "max_positions": 512, "total_params": 300_000, "bytes_per_param": 2}
    return Geometry(family=family, **sizes, **rest, **counts).replaced(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "options"), MODELS, ids=lambda value: str(value)[:40])
def test_a_plan_passes_where_a_graph_is_found_and_nowhere_else(
    family: str, options: dict[str, object]
) -> None:
    """What is refused by sizes and what is refused when files are written are written down apart."""
    model = tiny(family, **options)  # type: ignore[arg-type]
    geometry = Geometry(
        **ADAPTERS[family].geometry(model.config),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        bytes_per_param=4,
    )
    dim, config = geometry.head_dim, model.config
    for qk, ov, mlp in product(
        ((dim, dim), (dim, dim - 2)), ((dim, dim), (5, 5), (5, 6)), (UNIFORM_RATIO, BY_LAYER, BROKEN)
    ):
        ranks = Ranks(qk, ov, mlp)
        config.qk_ranks, config.qk_pairs = list(qk), [rank // 2 for rank in qk]
        config.ov_ranks, config.mlp_ranks = list(ov), list(mlp)
        try:
            architecture_of(shape_of(config))
        except UnsupportedModelError:
            with pytest.raises(InvalidInput):
                check_plan_exports(["gguf"], geometry, ranks)
        else:
            if mlp != BROKEN:
                check_plan_exports(["gguf"], geometry, ranks)
                continue
            target = "llama.cpp" if ov == (dim, dim) else "llama.cpp-kv"
            said = f"layer 0 mlp has rank 24, and {target} holds multiples of 32 or the full rank"
            with pytest.raises(InvalidInput, match=re.escape(said)):
                check_plan_exports(["gguf"], geometry, ranks, TARGETS[target])


@pytest.mark.parametrize(
    ("family", "qk", "ov", "mlp", "says"),
    [
        (
            "gpt2",
            (16, 16),
            (16, 16),
            (128, 128),
            "llama.cpp cannot serve this model: files are written for llama, ",
        ),
        (
            "llama",
            (16, 8),
            (16, 4),
            (128, 64),
            "layer 0 ov|layer 1 qk has rank 8, and llama.cpp holds the full rank",
        ),
        ("llama", (16, 16), (8, 4), (128, 128), "layer 0 ov has rank 8, and llama.cpp holds the full rank"),
        (
            "gemma",
            (16, 16),
            (16, 16),
            (128, 64),
            "layer 1 mlp has rank 64, and llama.cpp holds one rank in all layers",
        ),
        (
            "llama",
            (16, 16),
            (16, 16),
            (128, 48),
            "layer 1 mlp has rank 48, and llama.cpp holds multiples of 32 or the full rank: rows of down_proj",
        ),
    ],
)
def test_the_first_component_at_fault_and_the_rule_are_named(
    family: str, qk: tuple[int, ...], ov: tuple[int, ...], mlp: tuple[int, ...], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        check_plan_exports(["compact", "gguf"], dense_geometry(family), Ranks(qk, ov, mlp))
    (field,) = caught.value.fields
    assert field.field == "export"
    assert "\n" not in caught.value.detail


def test_bits_are_none_of_llama_cpps() -> None:
    geometry = dense_geometry("llama")
    with pytest.raises(InvalidInput, match="has weight bits"):
        check_plan_exports(["gguf"], geometry, Ranks.dense(geometry).with_bits([(None, None, 8)] * 2))


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
@pytest.mark.parametrize("target", ["llama.cpp", "llama.cpp-kv"])
def test_every_plan_of_a_target_has_a_graph_or_the_target_is_refused(family: str, target: str) -> None:
    geometry = dense_geometry(family)
    if family == "gpt2" or (target == "llama.cpp-kv" and family.startswith("gemma")):
        with pytest.raises(InvalidInput, match=f"{target} cannot serve this model"):
            parse_constraints({"target": [target]}, geometry)
        return
    limits = parse_constraints({"target": [target]}, geometry)
    ranks = {
        place: limits.allowed[place][(place[0] * 7) % len(limits.allowed[place])] for place in limits.allowed
    }
    for tie in limits.ties:
        ranks |= dict.fromkeys(tie, ranks[tie[0]])
    check_plan_exports(
        ["gguf"], geometry, Ranks(*(tuple(ranks[layer, c] for layer in range(2)) for c in COMPONENTS))
    )


@pytest.mark.parametrize("target", ["llama.cpp", "llama.cpp-kv"])
@pytest.mark.parametrize(
    ("intermediate", "ranks"),
    [
        (128, (32, 64, 96, 128)),
        (100, (32, 64, 96, 100)),
        (32, (32,)),
        (24, (24,)),
        (2112, range(32, 2113, 32)),
    ],
)
def test_mlps_may_take_whole_blocks_of_eight_bits_or_all(
    target: str, intermediate: int, ranks: Sequence[int]
) -> None:
    geometry = dense_geometry("llama", intermediate=intermediate)
    limits = parse_constraints({"target": [target]}, geometry)
    block, _ = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
    for layer in range(geometry.layers):
        assert limits.allowed[layer, "mlp"] == tuple(ranks)
        assert all(rank % block == 0 for rank in limits.allowed[layer, "mlp"] if rank != intermediate)
    # o_proj is left to --align: with four heads whole blocks are every eighth rank.
    assert (limits.allowed[0, "ov"] == tuple(range(1, 17))) == (target == "llama.cpp-kv")
    limits = parse_constraints({"target": ["llama.cpp-kv"], "align": ["ov=8"]}, geometry)
    assert all(geometry.heads * rank % block == 0 for rank in limits.allowed[0, "ov"])


def test_every_family_that_is_written_is_one_of_ours() -> None:
    assert set(FAMILIES) <= set(ADAPTERS)
