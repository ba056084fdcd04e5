"""Every checkpoint of ``tests/assets/published``: its own config.json, generation and tokenizer settings, on tiny weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from allocator.plan.model.geometry import Geometry
from solvers.checkpoints import reading
from solvers.errors import UnsupportedModelError
from solvers.families import FAMILIES
from solvers.model.surgery import open_model
from tests.support.exports import config_of, edited, exported
from tests.support.models import token_ids
from tests.support.published import VOCABULARY, WORDS, Published, published, shrunk, written

ALL = published()
BOUNDED, NARROW = "mosaicml/mpt-7b-storywriter", "facebook/opt-350m"
REFUSED = {
    BOUNDED: "clip_qkv bounds every query, key and value",
    NARROW: r"embeddings are of another width \(word_embed_proj_dim 16\) than its layers \(32\)",
}
TAKEN = [model for model in ALL if model.name not in REFUSED]


WRITTEN_ANEW = {"transformers_version", "_name_or_path", "auto_map", "architectures", "_attn_implementation"}
"""What is written anew, or is no value of the model."""
AS_TRANSFORMERS_READS_IT = {"hidden_act", "sliding_window"}
"""Gemma's ``gelu`` is the tanh form; Qwen2's window counts only with ``use_sliding_window``."""


def first(*keys: str, of: dict[str, Any]) -> Any:
    return next(of[key] for key in keys if of.get(key) is not None)


def test_every_family_has_ten() -> None:
    counts = Counter(model.family for model in ALL)
    assert counts.keys() == FAMILIES.keys()
    assert min(counts.values()) >= 10


@torch.no_grad()
@pytest.mark.parametrize("model", TAKEN, ids=lambda model: model.name)
def test_it_loads_as_published(model: Published, tmp_path: Path) -> None:
    source = written(model, tmp_path / "source")
    ids = token_ids(2, 12, vocab=VOCABULARY)
    inspected = reading.inspect(source)
    assert (inspected.aside is not None) == ("auto_map" in model.config)
    dtype = reading.storage_dtype(inspected)
    assert str(dtype) == f"torch.{model.stored}"
    loaded = reading.load(inspected)
    stock = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        trust_remote_code=False,
        attn_implementation=loaded.config._attn_implementation,
    ).eval()
    expected = stock(ids).logits
    assert torch.equal(loaded(ids).logits, expected)
    opened = open_model(loaded)
    geometry = Geometry(
        **opened.family.geometry(loaded.config),
        total_params=sum(parameter.numel() for parameter in stock.parameters()),
        bytes_per_param=dtype.itemsize,
    )
    config = reading.inspect(source).config
    heads = first("num_attention_heads", "n_head", "n_heads", of=config)
    assert (geometry.heads, geometry.layers) == (
        heads,
        first("num_hidden_layers", "n_layer", "n_layers", of=config),
    )
    assert geometry.kv_heads == config.get("num_key_value_heads", heads)
    for index in range(geometry.layers):
        opened.layer(index)  # made of what was read: no stock layer is left
    assert torch.allclose(opened.model(ids).logits, expected, atol=1e-5 * float(expected.abs().max()))


def stays(published: Any, written: Any) -> bool:
    """Whether a value is there as it was, or with more beside it."""
    if isinstance(published, dict) and isinstance(written, dict):
        return all(stays(value, written.get(key)) for key, value in published.items())
    return bool(published == written)


@torch.no_grad()
@pytest.mark.parametrize("model", [m for m in TAKEN if m.tokenizer_config is not None], ids=lambda m: m.name)
def test_what_is_written_is_read_as_the_source(model: Published, tmp_path: Path) -> None:
    source = written(model, tmp_path / "source")
    compact, padded = exported(source, tmp_path)
    ids = token_ids(2, 12, vocab=VOCABULARY)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    found = {
        folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (compact, padded)
    }
    logits = [each(ids).logits for each in found.values()]
    assert torch.allclose(*logits, atol=1e-5 * float(logits[1].abs().max()))
    assert torch.equal(*(each.generate(ids, **options) for each in found.values()))
    for name, value in config_of(source).items():
        if name not in WRITTEN_ANEW | AS_TRANSFORMERS_READS_IT:
            assert stays(value, config_of(padded)[name]), name
    expected = Tokenizer.from_file(str(source / "tokenizer.json")).encode(WORDS).ids
    before: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    for folder in (compact, padded):
        after: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        assert after(WORDS).input_ids == before(WORDS).input_ids
        assert after(WORDS, add_special_tokens=False).input_ids == expected
        for name in ("special_tokens_map", "padding_side", "chat_template", "model_max_length"):
            assert getattr(after, name) == getattr(before, name), name


def test_a_bound_on_every_coordinate_is_refused_by_name(tmp_path: Path) -> None:
    (plain,) = [model for model in ALL if model.name == "mosaicml/mpt-7b"]
    (bound,) = [model for model in ALL if model.name == BOUNDED]
    source = written(
        plain, tmp_path / "source"
    )  # whose weights are alike; transformers refuses the other's 6 for 6.0
    edited(source, **shrunk(bound.config))
    with pytest.raises(UnsupportedModelError, match=REFUSED[bound.name]):
        reading.inspect(source)


def test_embeddings_of_another_width_are_refused_by_name(tmp_path: Path) -> None:
    (narrow,) = [model for model in ALL if model.name == NARROW]
    with pytest.raises(UnsupportedModelError, match=REFUSED[NARROW]):
        reading.inspect(written(narrow, tmp_path / "source"))
