"""Folders as publishers write them: keys that look like code and are none, code beside a family that is known here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from solvers.checkpoints import reading
from solvers.errors import UnsupportedModelError
from solvers.families import FAMILIES
from solvers.modeling_rankalloc import BARE
from tests.support.exports import config_of, edited, exported
from tests.support.models import save, tiny, token_ids

GENERATION = {
    "max_length": 50,
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
}


def saved(folder: Path, family: str) -> Path:
    save(tiny(family).float(), folder)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_a_kind_of_cache_and_defaults_for_generation_are_no_code(family: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", family)
    edited(source, cache_implementation="hybrid", **GENERATION)
    edited(source, "generation_config.json", cache_implementation="hybrid", temperature=0.9, top_p=0.6)
    compact, padded = exported(source, tmp_path)
    ids, options = token_ids(2, 12), {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    found = [
        AutoModelForCausalLM.from_pretrained(folder).generate(ids, **options) for folder in (compact, padded)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "key", ["attn_implementation", "_attn_implementation", "experts_implementation", "mlp_implementation"]
)
def test_what_names_another_repository_is_code_still(key: str, tmp_path: Path) -> None:
    source = edited(saved(tmp_path, "gemma2"), **{key: "kernels-community/attention"})
    with pytest.raises(UnsupportedModelError, match=rf"code of another repository \({key}\)"):
        reading.inspect(source)


@pytest.mark.parametrize("value", ["evil/cache", 3, ["static"]])
def test_no_kind_of_cache_is_refused_with_those_that_there_are(value: object, tmp_path: Path) -> None:
    source = edited(saved(tmp_path, "gemma2"), cache_implementation=value)
    with pytest.raises(
        UnsupportedModelError, match=r"no kind of cache; remove the key, or use one of static, .*hybrid"
    ):
        reading.inspect(source)


def test_a_kind_of_cache_makes_no_other_config(tmp_path: Path) -> None:
    source = saved(tmp_path, "gemma2")
    before = reading.inspect(source).config_sha256
    assert reading.inspect(edited(source, cache_implementation="hybrid")).config_sha256 == before


CODE = "from pathlib import Path\nPath({marker!r}).write_text('run')\nraise SystemExit('never')\n"


@torch.no_grad()
@pytest.mark.parametrize("family", ["phi3", "mpt"])
def test_code_beside_a_known_family_is_left_aside_and_not_handed_on(family: str, tmp_path: Path) -> None:
    source, marker = saved(tmp_path / "source", family), tmp_path / "marker"
    before = reading.inspect(source)
    assert before.aside is None
    (source / "modeling_own.py").write_text(CODE.format(marker=str(marker)))
    code = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
    edited(source, auto_map={**code, "AutoTokenizer": "somebody/else"})
    edited(source, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.Slow", None]})
    found = reading.inspect(source)
    assert (
        found.aside
        == f"config.json names code of its own (auto_map): left aside, {family} is transformers' own here"
    )
    assert found.config_sha256 == before.config_sha256
    compact, padded = exported(source, tmp_path)
    assert "auto_map" not in config_of(padded)
    assert config_of(compact)["auto_map"] == {
        "AutoConfig": f"modeling_rankalloc.{FAMILIES[family].compact[0].__name__}",
        "AutoModel": f"modeling_rankalloc.{BARE[family].__name__}",
        "AutoModelForCausalLM": f"modeling_rankalloc.{FAMILIES[family].compact[1].__name__}",
    }
    for folder in (compact, padded):
        assert not (folder / "modeling_own.py").exists()
        assert "auto_map" not in json.loads((folder / "tokenizer_config.json").read_text())
    ids = token_ids(2, 12)
    stock = AutoModelForCausalLM.from_pretrained(padded, trust_remote_code=True)
    assert type(stock).__module__.startswith("transformers.models.")
    ours = AutoModelForCausalLM.from_pretrained(compact)
    assert torch.allclose(ours(ids).logits, stock(ids).logits, atol=1e-4)
    assert not marker.exists()


def test_code_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    source = edited(saved(tmp_path, "phi3"), model_type="own", auto_map={"AutoConfig": "modeling_own.Config"})
    with pytest.raises(UnsupportedModelError, match="'own' is not supported"):
        reading.inspect(source)
