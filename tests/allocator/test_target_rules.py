"""What each target asks of ranks and allocates for its cache, by hand; which misfit is named first."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.held import check_held, misfit
from allocator.plan.targets.registry import PLAIN, TARGETS
from tests.support.plans import ranks_of
from tests.support.profiles import SMALL

WINDOWS = SMALL.replaced(windows=(0, 700, 5000), layers=3, max_positions=8192)
"""The last one sees the whole of contexts up to 5,000."""


@pytest.mark.parametrize(
    ("target", "context", "positions"),
    [
        # As many as each layer sees.
        ("transformers", 1, [1, 1, 1]),
        ("transformers", 701, [701, 700, 701]),
        ("stock", 6000, [6000, 700, 5000]),
        # Whole blocks of 16, and of 128.
        ("vllm", 16, [16, 16, 16]),
        ("vllm", 17, [32, 32, 32]),
        ("vllm", 701, [704, 704, 704]),
        ("vllm", 6000, [6000, 704, 5008]),
        ("vllm-cpu", 6000, [6016, 768, 5120]),
        # Cells in 256s, of a window and a batch of 512 beside it.
        ("llama.cpp", 1, [256, 256, 256]),
        ("llama.cpp", 256, [256, 256, 256]),
        ("llama.cpp", 700, [768, 768, 768]),
        ("llama.cpp", 701, [768, 768, 768]),
        ("llama.cpp", 1281, [1536, 1280, 1536]),
        ("llama.cpp-kv", 6000, [6144, 1280, 5632]),
    ],
)
def test_positions_that_a_cache_has_room_for(target: str, context: int, positions: list[int]) -> None:
    assert [TARGETS[target].positions(WINDOWS, layer, context) for layer in range(3)] == positions
    # Without windows all layers are as the first one here.
    assert TARGETS[target].positions(WINDOWS.replaced(windows=()), 1, context) == positions[0]


def test_the_smallest_window_of_llama_cpp_holds_a_batch_as_well() -> None:
    assert TARGETS["llama.cpp"].positions(WINDOWS.replaced(windows=(1, 0, 0)), 0, 6000) == 768


@pytest.mark.parametrize(
    ("target", "qk", "ov", "numbers"),
    [
        ("transformers", 6, 4, 10),
        ("stock", 16, 16, 32),
        ("llama.cpp-kv", 16, 5, 21),
        ("vllm", 6, 4, 2 * 8),
        ("vllm", 2, 8, 2 * 8),
        ("vllm", 10, 9, 2 * 16),
        ("vllm-cpu", 6, 4, 2 * 32),
        ("vllm-cpu", 33, 64, 2 * 64),
        ("vllm-cpu", 65, 2, 2 * 80),
        # Beyond the kernel's sizes a head keeps its own.
        ("vllm", 257, 2, 2 * 257),
        ("vllm-cpu", 500, 513, 2 * 513),
    ],
)
def test_numbers_that_a_token_takes_for_each_head(target: str, qk: int, ov: int, numbers: int) -> None:
    engine, wide = TARGETS[target], SMALL.replaced(head_dim=640)
    parts = engine.cached_bytes(wide, 3, "qk", qk) + engine.cached_bytes(wide, 3, "ov", ov)
    assert parts + engine.shared_bytes(wide, 3, qk, ov) == 2 * 3 * numbers
    assert engine.cached_bytes(wide, 3, "mlp", 64) == 0
    assert (engine.shared_bytes(wide, 3, qk, ov) > 0) == engine.paired == target.startswith("vllm")


def test_where_windows_differ_vllm_counts_whole_heads_of_its_sizes() -> None:
    uneven = WINDOWS.replaced(head_dim=33)
    assert TARGETS["vllm"].shared_bytes(uneven, 2, 1, 1) == 2 * 2 * 40 * 2
    assert TARGETS["vllm-cpu"].shared_bytes(uneven, 2, 1, 1) == 2 * 2 * 64 * 2
    two = uneven.replaced(windows=(700, 0, 700))
    assert TARGETS["vllm"].shared_bytes(two, 2, 1, 1) == 2 * 2 * 40 * 2
    alike = uneven.replaced(windows=(700, 700, 700))
    assert TARGETS["vllm"].shared_bytes(alike, 2, 1, 9) == 2 * 2 * 16 * 2


def test_the_size_that_a_head_is_stored_in_is_named_by_vllm_alone() -> None:
    sizes = {name: target.head_size for name, target in TARGETS.items()}
    assert {name for name, size in sizes.items() if size is not None} == {"vllm", "vllm-cpu"}
    gpu, cpu = sizes["vllm"], sizes["vllm-cpu"]
    assert gpu is not None
    assert cpu is not None
    assert [gpu(rank) for rank in (1, 8, 9, 256, 257)] == [8, 8, 16, 256, 257]
    assert [cpu(rank) for rank in (1, 32, 33, 81, 512, 513)] == [32, 32, 64, 96, 512, 513]


def test_a_cached_number_takes_as_many_bytes_as_the_engine_gives_it() -> None:
    single = SMALL.replaced(bytes_per_param=4)
    assert {name: target.own_width(single) for name, target in TARGETS.items()} == {
        "transformers": 4,
        "vllm": 4,
        "vllm-cpu": 4,
        "llama.cpp": 2,
        "llama.cpp-kv": 2,
        "stock": 4,
    }


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("component", COMPONENTS)
def test_ranks_that_a_component_may_have(target: str, component: Component) -> None:
    whole = {"llama.cpp": "qk ov", "llama.cpp-kv": "qk", "stock": "qk ov"}.get(target, "").split()
    geometry = SMALL.replaced(intermediate=100)
    full = geometry.full_rank(component)
    every = set(range(1, full + 1))
    if component in whole:
        every = {full}
    elif component == "mlp" and target.startswith("llama.cpp"):
        every = {32, 64, 96, 100}
    held = {rank for rank in range(1, full + 1) if TARGETS[target].holds(geometry, component, rank)}
    assert held == every


BLOCK = SMALL.layers * (64 * 16 * (4 + 2) * 2 + 3 * 64 * 128)
"""Numbers of the matrices of all layers: 4 query and 2 key heads of 16, outputs and values as many, three of an MLP."""
EMBEDDINGS = 256 * 64


@pytest.mark.parametrize(
    ("target", "changes", "tied"),
    [
        ("transformers", {}, ()),
        ("vllm", {"windows": (0, 5)}, ()),
        ("stock", {}, ("mlp",)),
        ("llama.cpp-kv", {}, ("ov", "mlp")),
        ("llama.cpp", {}, ()),
        ("llama.cpp", {"windows": (0, 0)}, ()),
        ("llama.cpp", {"windows": (0, 127)}, ("mlp",)),
        ("llama.cpp", {"windows": (0, 128)}, ()),
        ("llama.cpp", {"windows": (1, 0)}, ("mlp",)),
        ("llama.cpp", {"family": "gemma2"}, ("mlp",)),
        ("llama.cpp", {"family": "gemma3_text"}, ("mlp",)),
        ("llama.cpp", {"family": "qwen3", "total_params": BLOCK + 2 * EMBEDDINGS}, ("mlp",)),
        ("llama.cpp", {"family": "qwen3", "total_params": BLOCK + 2 * EMBEDDINGS - 1}, ()),
        ("llama.cpp", {"family": "qwen2", "total_params": BLOCK + 2 * EMBEDDINGS}, ()),
    ],
)
def test_components_of_one_rank_in_all_layers(
    target: str, changes: dict[str, Any], tied: tuple[str, ...]
) -> None:
    assert TARGETS[target].ties(SMALL.replaced(**changes)) == tied


GEMMAS = ("gemma", "gemma2", "gemma3_text")


@pytest.mark.parametrize(
    ("target", "changes", "said"),
    [
        ("transformers", {"family": "mpt"}, None),
        ("vllm", {"family": "mpt"}, "its Transformers backend leaves MPT's biases of distance out"),
        ("vllm-cpu", {"family": "mpt"}, "its Transformers backend leaves MPT's biases of distance out"),
        ("vllm", {"family": "gpt2"}, None),
        ("stock", {"family": "mpt"}, "MPT's own class has one fixed size of MLP"),
        ("stock", {"family": "gpt2"}, None),
        *(("llama.cpp", {"family": name}, None) for name in ("llama", "mistral", "qwen2", "qwen3", *GEMMAS)),
        *(("llama.cpp-kv", {"family": name}, None) for name in ("llama", "mistral", "qwen2", "qwen3")),
        (
            "llama.cpp",
            {"family": "gpt2"},
            "files are written for llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, not for gpt2",
        ),
        (
            "llama.cpp-kv",
            {"family": "gpt2"},
            "files are written for llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, not for gpt2",
        ),
        ("llama.cpp", {"family": "qwen3", "qk_bias": True}, "its qwen3 has no biases in attention"),
        ("llama.cpp-kv", {"family": "qwen3", "qk_bias": True}, "its qwen3 has no biases in attention"),
        ("llama.cpp", {"family": "gemma2", "qk_bias": True}, "its gemma2 has no biases in attention"),
        ("llama.cpp", {"family": "qwen2", "qk_bias": True}, None),
        ("llama.cpp", {"mlp_bias": True, "ov_bias": True}, None),
        *(
            (
                "llama.cpp-kv",
                changes,
                f"its {changes.get('family', 'llama')}, with these biases if there are any, has values as large as keys:"
                " use llama.cpp",
            )
            for changes in (
                {"ov_bias": True},
                {"mlp_bias": True},
                {"family": "qwen2", "mlp_bias": True},
                *({"family": name} for name in GEMMAS),
            )
        ),
        ("llama.cpp-kv", {"family": "qwen2", "ov_bias": True}, None),
    ],
)
def test_models_that_a_target_cannot_serve(target: str, changes: dict[str, Any], said: str | None) -> None:
    geometry = SMALL.replaced(**changes)
    assert TARGETS[target].refusal(geometry) == said
    if said is not None:
        misfit_said = misfit(TARGETS[target], geometry, Ranks.dense(geometry))
        assert misfit_said == f"{target} cannot serve this model: {said}"


def rows(**changes: Any) -> Ranks:
    """Three layers of SMALL's sizes, of which some have other ranks: qk_1=8 is of the second."""
    layers: list[dict[str, Any]] = [{"layer": n, "qk": 16, "ov": 16, "mlp": 128} for n in range(3)]
    for name, value in changes.items():
        component, _, layer = name.rpartition("_")
        layers[int(layer)][component] = value
    return ranks_of(layers)


@pytest.mark.parametrize(
    ("target", "changes", "said"),
    [
        ("transformers", {"qk_0": 2, "ov_1": 3, "mlp_2": 5}, None),
        ("transformers", {"bits_0": {"qk": 8}}, None),
        ("transformers", {"ov_form_0": "joint", "ov_0": 8}, None),
        ("vllm", {"qk_0": 2, "ov_1": 3, "mlp_2": 5}, None),
        ("vllm", {"bits_2": {"mlp": 8}}, "the plan has weight bits, and vllm does not load them"),
        ("vllm", {"qk_form_1": "latent", "qk_1": 4}, None),
        (
            "vllm",
            {"qk_form_1": "latent", "qk_1": 4, "ov_form_2": "joint", "ov_2": 4},
            "layer 2 ov is joint, and vllm does not compute that",
        ),
        (
            "stock",
            {"qk_form_1": "latent", "ov_form_1": "joint", "qk_1": 4, "ov_1": 4},
            "layer 1 ov is joint, and stock does not compute that",
        ),
        ("stock", {"mlp_0": 64, "mlp_1": 64, "mlp_2": 64}, None),
        (
            "stock",
            {"mlp_1": 64, "qk_2": 8},
            "layer 1 mlp has rank 64, and stock holds one rank in all layers: its config has one number",
        ),
        (
            "stock",
            {"qk_1": 8, "mlp_1": 64},
            "layer 1 qk has rank 8, and stock holds the full rank: a stock attention rotates and scales whole heads",
        ),
        (
            "stock",
            {"ov_2": 8},
            "layer 2 ov has rank 8, and stock holds the full rank: values have the size of keys",
        ),
        ("llama.cpp", {"mlp_0": 32, "mlp_1": 96}, None),
        (
            "llama.cpp",
            {"mlp_0": 32, "mlp_1": 48},
            "layer 1 mlp has rank 48, and llama.cpp holds multiples of 32 or the full rank: rows of down_proj are whole blocks"
            " of Q8_0",
        ),
        (
            "llama.cpp",
            {"qk_2": 8},
            "layer 2 qk has rank 8, and llama.cpp holds the full rank: all heads are rotated by one set of frequencies",
        ),
        (
            "llama.cpp",
            {"ov_2": 8},
            "layer 2 ov has rank 8, and llama.cpp holds the full rank beside MLPs that differ: no graph takes both",
        ),
        ("llama.cpp-kv", {f"{c}_{n}": rank for c, rank in (("ov", 5), ("mlp", 64)) for n in range(3)}, None),
        (
            "llama.cpp-kv",
            {"ov_1": 5},
            "layer 1 ov has rank 5, and llama.cpp-kv holds one rank in all layers: values have one size",
        ),
        (
            "llama.cpp-kv",
            {"mlp_1": 32},
            "layer 1 mlp has rank 32, and llama.cpp-kv holds one rank in all layers: its graph with smaller values has one",
        ),
        (
            "llama.cpp-kv",
            {"mlp_0": 33, "mlp_1": 33, "mlp_2": 33},
            "layer 0 mlp has rank 33, and llama.cpp-kv holds multiples of 32 or the full rank: rows of down_proj are whole"
            " blocks of Q8_0",
        ),
    ],
)
def test_the_first_misfit_is_named_with_its_rule(
    target: str, changes: dict[str, Any], said: str | None
) -> None:
    geometry = SMALL.replaced(layers=3, total_params=150_000)
    assert misfit(TARGETS[target], geometry, rows(**changes)) == said
    if said is None:
        check_held(TARGETS[target], geometry, rows(**changes), "ranks")
        return
    with pytest.raises(InvalidInput) as caught:
        check_held(TARGETS[target], geometry, rows(**changes), "ranks")
    assert caught.value.detail == f"ranks: {said}; use a plan made with --target {target}"
    (error,) = caught.value.fields
    assert (error.field, error.found, error.allowed) == ("ranks", said, f"a plan made with --target {target}")


def test_plain_transformers_is_the_first_and_holds_everything() -> None:
    assert next(iter(TARGETS.values())) is PLAIN
    assert list(TARGETS) == ["transformers", "vllm", "vllm-cpu", "llama.cpp", "llama.cpp-kv", "stock"]
    assert all(target.name == name for name, target in TARGETS.items())
