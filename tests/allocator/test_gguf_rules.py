"""Plans and constraints that a GGUF file holds, by sizes alone: exactly those that a graph of llama.cpp is found for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.ask.constraints import parse_constraints
from allocator.plan.gguf_rules import FAMILIES, check_gguf, check_gguf_constraints
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from solvers.errors import UnsupportedModelError
from solvers.families import FAMILIES as ADAPTERS
from solvers.gguf.architectures import architecture_of, shape_of
from tests.support.models import CASES, SLIDING_QWEN, tiny

UNIFORM, BY_LAYER = (24, 24), (40, 24)
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
    return replace(Geometry(family=family, **sizes, **rest, **counts), **changes)  # type: ignore[arg-type]


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
        ((dim, dim), (dim, dim - 2)), ((dim, dim), (5, 5), (5, 6)), (UNIFORM, BY_LAYER)
    ):
        ranks = Ranks(qk, ov, mlp)
        config.qk_ranks, config.qk_pairs = list(qk), [rank // 2 for rank in qk]
        config.ov_ranks, config.mlp_ranks = list(ov), list(mlp)
        try:
            architecture_of(shape_of(config))
        except UnsupportedModelError:
            with pytest.raises(InvalidInput):
                check_gguf(geometry, ranks)
        else:
            check_gguf(geometry, ranks)


@pytest.mark.parametrize(
    ("family", "qk", "ov", "mlp", "says"),
    [
        ("gpt2", (16, 16), (16, 16), (128, 128), "gpt2 models; llama, "),
        ("llama", (16, 8), (16, 4), (128, 64), "layer 1 qk at rank 8; .*--pin '*.qk=dense'"),
        ("llama", (16, 16), (8, 4), (128, 128), "layer 1 ov at rank 4; .*--pin '*.ov=dense', or --tie ov"),
        ("llama", (16, 16), (8, 8), (128, 64), "layer 1 mlp at rank 64; beside a cut OV .*--tie mlp"),
        ("gemma", (16, 16), (16, 16), (128, 64), "layer 1 mlp at rank 64; all layers of gemma"),
        ("gemma3_text", (16, 16), (8, 8), (64, 64), "layer 0 ov at rank 8; of gemma3_text it stays dense"),
    ],
)
def test_the_first_component_at_fault_and_the_rule_are_named(
    family: str, qk: tuple[int, ...], ov: tuple[int, ...], mlp: tuple[int, ...], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says.replace("*.", r"\*.")) as caught:
        check_gguf(dense_geometry(family), Ranks(qk, ov, mlp))
    (field,) = caught.value.fields
    assert field.field == "export"
    assert "\n" not in caught.value.detail


def test_bits_are_none_of_llama_cpps() -> None:
    geometry = dense_geometry("llama")
    with pytest.raises(InvalidInput, match="without --bits"):
        check_gguf(geometry, Ranks.dense(geometry).with_bits([(None, None, 8)] * 2))


DENSE_ATTENTION = ["*.qk=dense", "*.ov=dense"]


@pytest.mark.parametrize(
    ("family", "constraints", "says"),
    [
        ("llama", {"pin": DENSE_ATTENTION}, None),
        ("llama", {"pin": ["*.qk=dense"], "tie": ["ov", "mlp"]}, None),
        ("llama", {"pin": ["*.qk=dense", "*.ov=8", "*.mlp=64"]}, None),
        ("gemma", {"pin": DENSE_ATTENTION, "tie": ["mlp"]}, None),
        ("llama", {}, "qk that may be cut; .*--pin"),
        ("llama", {"pin": ["*.qk=dense"]}, "ov that may differ by layer; .*--pin"),
        ("llama", {"pin": ["*.qk=dense"], "tie": ["ov"]}, "mlp that may be cut by layer; beside a cut OV"),
        ("llama", {"pin": ["*.qk=dense"], "tie": ["ov:0-1", "mlp:1-1"]}, "mlp that may be cut by layer"),
        ("gemma", {"pin": DENSE_ATTENTION}, "mlp that may be cut by layer; all layers of gemma"),
        ("gemma", {"pin": ["*.qk=dense"], "tie": ["ov", "mlp"]}, "ov that may be cut; of gemma"),
    ],
)
def test_constraints_that_leave_room_for_another_plan_are_refused(
    family: str, constraints: dict[str, list[str]], says: str | None
) -> None:
    geometry = dense_geometry(family)
    parsed = parse_constraints(constraints, geometry)
    if says is None:
        check_gguf_constraints(geometry, parsed)
        return
    with pytest.raises(InvalidInput, match=says):
        check_gguf_constraints(geometry, parsed)


def test_every_family_that_is_written_is_one_of_ours() -> None:
    assert set(FAMILIES) <= set(ADAPTERS)
