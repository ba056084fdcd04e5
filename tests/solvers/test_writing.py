"""What is written, tensor by tensor and key by key: layers of any numbers at their sizes, all else as the source has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from solvers import modeling_rankalloc
from solvers.checkpoints import reading, writing
from solvers.checkpoints.head_sizes import CPU_HEAD_SIZES
from solvers.checkpoints.writing import held_in, stored, write_compact, write_padded, write_stock
from solvers.model.surgery import OpenModel, open_model
from solvers.weights import LayerWeights, OnDemand
from tests.support.exports import config_of
from tests.support.models import save, tiny, token_ids

SIZES = {"qk": (4, 6), "ov": (3, 5), "mlp": (17, 23)}
"""Ranks of the first layer and of the second."""


@dataclass
class Opened:
    source: Path
    opened: OpenModel
    layers: list[LayerWeights]


def numbers(weights: LayerWeights, *, qk: int, ov: int, mlp: int, seed: int) -> LayerWeights:
    """A layer of these ranks, of random numbers that bfloat16 does not hold."""
    generator, sizes = torch.Generator().manual_seed(seed), {"qk": qk, "ov": ov, "mlp": mlp}
    changes: dict[str, torch.Tensor] = {}
    for name, tensor in weights.tensors().items():
        if name == "pairs":
            continue
        shape = list(tensor.shape)
        component = {"q": "qk", "k": "qk", "v": "ov", "o": "ov"}.get(name[0], "mlp")
        for axis, letter in enumerate(name.rpartition("_")[2]):
            if letter in "rm":
                shape[axis] = sizes[component]
        changes[name] = torch.randn(shape, generator=generator)
    if weights.pairs is not None:
        last = weights.pairs.shape[1]
        changes["pairs"] = torch.arange(last - qk // 2, last).expand(weights.kv_heads, -1)
    return replace(weights, **changes)


def opened(
    root: Path, family: str, *, dtype: torch.dtype = torch.float32, resident: bool = True, **options: Any
) -> Opened:
    save(tiny(family, **options).to(dtype), root / "source")
    model = reading.load(reading.inspect(root / "source"), dtype=None)
    model.config._experts_implementation = "eager"
    result = open_model(model, memory_bytes=None if resident else 1)
    layers = []
    for index, weights in enumerate(result.source):
        row = {component: sizes[index] for component, sizes in SIZES.items()}
        whole = {"qk": weights.qk_rank, "mlp": weights.mlp_rank}
        row |= {component: whole[component] for component in result.family.fixed}
        layers.append(numbers(weights, **row, seed=index))
    return Opened(root / "source", result, layers)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


def linears(layer: LayerWeights, attention: str, mlp: str) -> dict[str, torch.Tensor]:
    """The layer as ``nn.Linear`` keeps it, by the names of tensors."""
    found: dict[str, torch.Tensor] = {}
    for letter in "qkv":
        matrix = getattr(layer, f"{letter}_{'DHr' if letter == 'q' else 'DKr'}")
        found[f"{attention}.{letter}_proj.weight"] = matrix.flatten(1).T
        bias = getattr(layer, f"{letter}_bias_{'Hr' if letter == 'q' else 'Kr'}")
        if bias is not None:
            found[f"{attention}.{letter}_proj.bias"] = bias.flatten()
    found[f"{attention}.o_proj.weight"] = layer.o_HrD.flatten(0, 1).T
    for name, tensor in (
        (f"{attention}.o_proj.bias", layer.o_bias_D),
        (f"{mlp}.gate_proj.weight", None if layer.gate_Dm is None else layer.gate_Dm.T),
        (f"{mlp}.gate_proj.bias", layer.gate_bias_m),
        (f"{mlp}.up_proj.weight", layer.up_Dm.T if layer.mlp_rank else None),
        (f"{mlp}.up_proj.bias", layer.up_bias_m),
        (f"{mlp}.down_proj.weight", layer.down_mD.T if layer.mlp_rank else None),
        (f"{mlp}.down_proj.bias", layer.down_bias_D),
        (f"{attention}.pairs", layer.pairs),
    ):
        if tensor is not None:
            found[name] = tensor
    return found


FAMILIES = [
    ("llama", {"attention_bias": True}, "model.layers", "self_attn"),
    ("gpt2", {"tie_word_embeddings": True}, "transformer.h", "attn"),
    ("gemma3_text", {}, "model.layers", "self_attn"),
    ("mixtral", {}, "model.layers", "self_attn"),
]
every_family = pytest.mark.parametrize(
    ("family", "options", "prefix", "attention"), FAMILIES, ids=[case[0] for case in FAMILIES]
)


@every_family
@pytest.mark.parametrize(
    ("dtype", "resident"),
    [(torch.float32, True), (torch.bfloat16, False)],
    ids=["all in memory", "two in memory"],
)
def test_compact_holds_the_layers_and_the_rest_of_the_source(
    family: str,
    options: dict[str, Any],
    prefix: str,
    attention: str,
    dtype: torch.dtype,
    resident: bool,
    tmp_path: Path,
) -> None:
    case, ids = opened(tmp_path, family, dtype=dtype, resident=resident, **options), token_ids(2, 9)
    (dense,) = case.opened.logits([ids])
    out = tmp_path / "compact"
    write_compact(case.opened, case.layers, out, source=case.source, dtype=dtype)
    assert torch.equal(next(case.opened.logits([ids])), dense), "its layers are dense afterwards"
    found, before = tensors_of(out), tensors_of(case.source)
    expected: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(case.layers):
        place = f"{prefix}.{index}"
        expected |= linears(layer, f"{place}.{attention}", f"{place}.mlp")
    replaced = ("_proj.", ".c_attn.", ".c_proj.", ".c_fc.", "experts")
    kept = {name: tensor for name, tensor in before.items() if not any(part in name for part in replaced)}
    if family == "mixtral":  # stored under other names
        kept = {name: tensor for name, tensor in kept.items() if "block_sparse_moe" not in name}
        found = {name: tensor for name, tensor in found.items() if "mlp" not in name}
    assert found.keys() == expected.keys() | kept.keys()
    for name, tensor in expected.items():
        wanted = tensor.to(torch.uint8 if name.endswith("pairs") else dtype)
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted), name
    for name, tensor in kept.items():
        assert found[name].dtype == tensor.dtype == dtype
        assert torch.equal(found[name], tensor), name


@every_family
def test_compact_s_config_is_the_source_s_and_ranks(
    family: str, options: dict[str, Any], prefix: str, attention: str, tmp_path: Path
) -> None:
    case, out = opened(tmp_path, family, **options), tmp_path / "compact"
    write_compact(
        case.opened,
        case.layers,
        out,
        source=case.source,
        dtype=torch.bfloat16,
        bits=[{"ov": 8}, {"qk": 4, "ov": 8}],
        head_size=lambda rank: 10 * rank,
    )
    found, before = config_of(out), config_of(case.source)
    name = {"llama": "Llama", "gpt2": "GPT2", "gemma3_text": "Gemma3", "mixtral": "Mixtral"}[family]
    head = "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    text = "Text" if family == "gemma3_text" else ""
    module = "modeling_rankalloc"
    qk, pairs = [8, 8] if family == "gemma3_text" else [4, 6], {"llama": [2, 3], "gemma3_text": [4, 4]}
    windows = family == "gemma3_text"  # of one layer, not of the other
    assert found == {
        **{key: value for key, value in found.items() if key.startswith(("rope_", "transformers_version"))},
        **before,
        "model_type": f"rankalloc_{family}",
        "architectures": [f"Rankalloc{name}{head}"],
        "auto_map": {
            "AutoConfig": f"{module}.Rankalloc{name}{text}Config",
            "AutoModel": f"{module}.Rankalloc{name}{text}Model",
            "AutoModelForCausalLM": f"{module}.Rankalloc{name}{head}",
        },
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "qk_ranks": qk,
        "ov_ranks": [3, 5],
        "mlp_ranks": [40, 40] if family == "mixtral" else [17, 23],
        "qk_pairs": [] if family == "gpt2" else pairs.get(family, [2, 3]),
        "ov_joint": [],
        "query_latents": [],
        "qk_bits": [None, 4],
        "ov_bits": [8, 8],
        "mlp_bits": [None, None],
        "per_layer_config": {
            "0": {"head_dim": 80 if windows else 40},
            "1": {"head_dim": 80 if windows else 60},
        },
        "without_code": {"model_type": ""},
    }
    assert (out / f"{module}.py").read_bytes() == Path(str(modeling_rankalloc.__file__)).read_bytes()
    plain = tmp_path / "plain"
    plain.mkdir()
    write_compact(case.opened, case.layers, plain, source=case.source, dtype=torch.float32, bits=[{}, {}])
    found = config_of(plain)
    assert [found[f"{component}_bits"] for component in SIZES] == [[]] * 3
    assert {row["head_dim"] for row in found["per_layer_config"].values()} == {CPU_HEAD_SIZES[0]}
    assert (found["dtype"], found["torch_dtype"]) == ("float32", "float32")
    generation = json.loads((plain / "generation_config.json").read_text())
    assert generation == json.loads((case.source / "generation_config.json").read_text())


def test_files_of_a_limited_size_and_what_lies_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, out = opened(tmp_path, "llama"), tmp_path / "compact"
    write_compact(case.opened, case.layers, out, source=case.source, dtype=torch.float32)
    (whole,) = out.glob("*.safetensors")
    assert whole.name == "model.safetensors"
    assert not list(out.glob("*.index.json"))
    limit, parts = 8000, tmp_path / "parts"
    monkeypatch.setattr(writing, "FILE_BYTES", limit)
    write_compact(case.opened, case.layers, parts, source=case.source, dtype=torch.float32)
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) > 2
    assert [file.name for file in files] == [
        f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)
    ]
    places: dict[str, str] = {}
    for file in (whole, *files):
        with safe_open(file, framework="pt") as opened_file:
            assert opened_file.metadata() == {"format": "pt"}
    for file in files:
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= limit
        places |= dict.fromkeys(tensors, file.name)
    text = (parts / "model.safetensors.index.json").read_text()
    assert text.endswith("}\n")
    index, one = json.loads(text), load_file(whole)
    assert index["weight_map"] == places
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    several = tensors_of(parts)
    assert several.keys() == one.keys()
    assert all(torch.equal(tensor, one[name]) for name, tensor in several.items())


def test_layers_that_are_not_what_was_promised_are_an_error(tmp_path: Path) -> None:
    """Layers that are made on demand, of other ranks the second time."""
    case, times = opened(tmp_path, "llama"), [0]

    def make(index: int) -> LayerWeights:
        times[0] += 1
        return case.layers[index] if times[0] <= 2 else case.layers[1 - index]

    says = r"^model\.layers\.0\.self_attn\.pairs: \(2, 3\) was found, \(2, 2\) promised$"
    with pytest.raises(RuntimeError, match=says):
        write_compact(
            case.opened, OnDemand(2, make), tmp_path / "out", source=case.source, dtype=torch.float32
        )


@torch.no_grad()
@every_family
@pytest.mark.parametrize("resident", [True, False], ids=["all in memory", "two in memory"])
def test_padded_is_the_source_s_class_and_config_and_the_compact_function(
    family: str, options: dict[str, Any], prefix: str, attention: str, resident: bool, tmp_path: Path
) -> None:
    case, padded, compact = opened(tmp_path, family, resident=resident, **options), *folders(tmp_path)
    (dense,) = case.opened.logits([token_ids(2, 9)])
    write_padded(case.opened, case.layers, padded, source=case.source, dtype=torch.float32)
    assert torch.equal(next(case.opened.logits([token_ids(2, 9)])), dense)
    write_compact(case.opened, case.layers, compact, source=case.source, dtype=torch.float32)
    found, before = tensors_of(padded), tensors_of(case.source)
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    old = {key: value for key, value in config_of(padded).items() if key.startswith("rope_")}
    assert config_of(padded) == {**old, **config_of(case.source), "torch_dtype": "float32"}
    assert not list(padded.glob("*.py"))
    model, info = AutoModelForCausalLM.from_pretrained(
        padded, experts_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    exact = AutoModelForCausalLM.from_pretrained(compact, experts_implementation="eager")
    ids = token_ids(2, 9)
    scale = float(exact(ids).logits.abs().max())
    assert torch.allclose(model.eval()(ids).logits, exact.eval()(ids).logits, atol=1e-4 * max(scale, 1))


def folders(root: Path) -> tuple[Path, Path]:
    for name in ("padded", "compact"):
        (root / name).mkdir()
    return root / "padded", root / "compact"


def whole(case: Opened, changes: Sequence[dict[str, int]]) -> list[LayerWeights]:
    """Layers of random numbers at full rank but for ``changes``."""
    layers = []
    for index, (weights, change) in enumerate(zip(case.opened.source, changes, strict=True)):
        ranks = {"qk": weights.qk_rank, "ov": weights.ov_rank, "mlp": weights.mlp_rank}
        layers.append(numbers(weights, **ranks | change, seed=index))
    return layers


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_stock_has_the_source_s_config_but_for_the_mlps_size(family: str, tmp_path: Path) -> None:
    case, out = opened(tmp_path, family, dtype=torch.bfloat16), tmp_path / "stock"
    layers = whole(case, [{"mlp": 17}, {"mlp": 17}])
    write_stock(case.opened, layers, out, source=case.source, dtype=torch.bfloat16)
    size = "n_inner" if family == "gpt2" else "intermediate_size"
    before, config = config_of(case.source), case.opened.config
    old = {key: value for key, value in config_of(out).items() if key.startswith("rope_")}
    assert config_of(out) == {**old, **before, size: 17, "torch_dtype": "bfloat16"}
    assert getattr(config, size) == 40, "the model's own config stays"
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    for read, layer in zip(open_model(model).source, layers, strict=True):
        assert read.tensors().keys() == layer.tensors().keys()
        for name, tensor in read.tensors().items():
            assert torch.equal(tensor, layer.tensors()[name].to(tensor.dtype)), name
    found = tensors_of(out)
    for name, tensor in tensors_of(case.source).items():
        if any(part in name for part in ("norm", "embed", "ln_", "wte", "wpe", "lm_head")):
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    "changes",
    [
        [{"qk": 4}, {}],
        [{}, {"qk": 4}],
        [{}, {"ov": 4}],
        [{"ov": 4, "qk": 4}] * 2,
        [{"mlp": 17}, {}],
        [{"mlp": 17}, {"mlp": 18}],
        "latent",
    ],
    ids=str,
)
def test_stock_is_refused_where_attention_is_cut_or_mlps_differ(changes: Any, tmp_path: Path) -> None:
    case, out = opened(tmp_path, "llama"), tmp_path / "stock"
    layers = whole(case, [{}, {}] if changes == "latent" else changes)
    if changes == "latent":
        layers[1] = replace(layers[1], q_down_DR=torch.eye(24), q_DHr=torch.randn(24, 4, 8))
    with pytest.raises(ValueError, match=r"^a stock class has whole attention and one size of MLP$"):
        write_stock(case.opened, layers, out, source=case.source, dtype=torch.float32)
    assert not out.exists()


def test_what_is_stored_is_rounded_once_and_held_in_the_bits_of_its_layer(tmp_path: Path) -> None:
    case = opened(tmp_path, "llama")
    weights = case.layers[0].to(dtype=torch.float64)
    plain = stored(weights, torch.bfloat16)
    compute = held_in([{}, {"qk": 8, "ov": 8, "mlp": 8}, {"mlp": 8}], torch.bfloat16)
    assert compute(0, weights) is weights
    for name, tensor in weights.tensors().items():
        if not tensor.is_floating_point():
            assert torch.equal(plain.tensors()[name], tensor)
            continue
        rounded = tensor.to(torch.bfloat16).float()
        assert plain.tensors()[name].dtype == torch.float32
        assert torch.equal(plain.tensors()[name], rounded)
        errors = [float((compute(layer, weights).tensors()[name] - rounded).norm()) for layer in (1, 2)]
        assert (0 < errors[0] < 0.02 * float(rounded.norm())) == ("bias" not in name)
        assert errors[1] == (errors[0] if name in ("gate_Dm", "up_Dm", "down_mD") else 0)
