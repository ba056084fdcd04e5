"""Models whose tensors are of several types: each keeps its own in what is written, and is computed with as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from solvers.checkpoints import reading
from solvers.checkpoints.recounting import recount
from solvers.checkpoints.written import load_written
from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.model.surgery import open_model
from tests.support.exports import config_of, edited, exported
from tests.support.models import save, tiny, token_ids

Kept = Callable[[str], bool]


def mixed(
    folder: Path, family: str, kept: Kept, *, other: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Write a tiny model in bfloat16 but for the tensors that ``kept`` chooses, and say what its file holds."""
    model = tiny(family).float()
    save(model.to(torch.bfloat16), folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    noise = torch.Generator().manual_seed(0)
    for name in filter(kept, tensors):
        spread = 1e-3 * torch.randn(tensors[name].shape, generator=noise)
        tensors[name] = (tensors[name].float() + spread).to(other)  # no bfloat16 number any more
    save_file(tensors, file, metadata={"format": "pt"})
    return tensors


def held(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


CASES: list[tuple[str, Kept]] = [
    ("llama", lambda name: "norm" in name),
    ("llama", lambda name: "norm" in name or "lm_head" in name or "embed" in name),
    ("gemma3_text", lambda name: "norm" in name),
    ("gemma3_text", lambda name: "embed" in name),
    ("gpt2", lambda name: "ln_" in name),
    ("opt", lambda name: "norm" in name or "embed" in name),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "kept"), CASES)
def test_each_tensor_keeps_its_type_and_value(family: str, kept: Kept, tmp_path: Path) -> None:
    before = mixed(tmp_path / "source", family, kept)
    chosen = {name for name, tensor in before.items() if tensor.dtype == torch.float32}
    assert chosen
    compact, padded = exported(tmp_path / "source", tmp_path)
    for folder in (compact, padded):
        after = held(folder)
        for name, tensor in after.items():
            if name in chosen:
                assert tensor.dtype == torch.float32, name
                assert torch.equal(tensor, before[name]), name
            elif tensor.is_floating_point():
                assert tensor.dtype == torch.bfloat16, name
        assert chosen <= after.keys()
        assert config_of(folder)["dtype"] == "bfloat16"
    ids = token_ids(2, 20)
    exact = AutoModelForCausalLM.from_pretrained(padded, dtype=torch.float32)(ids).logits
    assert torch.allclose(
        AutoModelForCausalLM.from_pretrained(compact, dtype=torch.float32)(ids).logits, exact, atol=1e-4
    )
    (opened,) = open_model(load_written(compact)).logits([ids])
    assert torch.allclose(opened, exact, atol=1e-4)


@torch.no_grad()
def test_the_dense_model_computes_with_what_is_stored(tmp_path: Path) -> None:
    mixed(tmp_path, "llama", lambda name: "norm" in name)
    ids = token_ids(2, 20)
    (found,) = open_model(reading.load(reading.inspect(tmp_path), dtype=None)).logits([ids])
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(ids).logits
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).float()(ids).logits
    assert torch.allclose(found, exact, atol=1e-5)
    assert not torch.allclose(rounded, exact, atol=1e-5)


def test_the_cache_is_counted_in_the_type_of_the_matrices(tmp_path: Path) -> None:
    mixed(tmp_path / "source", "llama", lambda name: "norm" in name)
    compact, _ = exported(tmp_path / "source", tmp_path)
    rows = recount(compact, layer_count=2)
    assert rows["kv_bytes_per_token"] == 2 * sum(row["k"] + row["v"] for row in rows["layers"])


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (
            lambda name: "layers.0.self_attn.k_proj" in name,
            "layer 0: attention and MLP are stored as BF16, F32",
        ),
        (lambda name: "layers.1.mlp" in name, "layer 1: attention and MLP are stored as BF16, F32"),
    ],
)
def test_one_type_is_asked_for_where_ranks_are_cut(kept: Kept, says: str, tmp_path: Path) -> None:
    mixed(tmp_path, "llama", kept)
    inspected = reading.inspect(tmp_path)
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        reading.load(inspected, dtype=None)
    assert 'from_pretrained(folder, dtype="bfloat16").save_pretrained(another)' in str(caught.value)


def test_a_type_that_no_matrix_may_have_is_refused(tmp_path: Path) -> None:
    mixed(tmp_path, "llama", lambda name: "norm" in name, other=torch.float64)
    with pytest.raises(UnsupportedModelError, match="stored as BF16, F64; allowed are F32, F16, BF16"):
        reading.storage_dtype(reading.inspect(tmp_path))


def without(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("llama", {}, "says tie_word_embeddings false"),
        ("llama", {"tie_word_embeddings": None}, "says no tie_word_embeddings"),
        ("gpt_neox", {}, "says tie_word_embeddings false"),
    ],
)
def test_a_head_that_the_config_promises_is_named_with_the_setting_that_fits(
    family: str, changes: Mapping[str, Any], says: str, tmp_path: Path
) -> None:
    save(tiny(family).float(), tmp_path)
    name = next(
        n
        for n in load_file(tmp_path / "model.safetensors")
        if n.endswith(("lm_head.weight", "embed_out.weight"))
    )
    without(edited(tmp_path, **changes), name)
    with pytest.raises(UnreadableModelError, match=says) as caught:
        reading.inspect(tmp_path)
    assert 'set "tie_word_embeddings": true in config.json' in str(caught.value)
    reading.load(reading.inspect(edited(tmp_path, tie_word_embeddings=True)))
