"""Texts become the same tokens in llama.cpp, and tokenizers that it would read in another way are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig

from solvers.errors import UnsupportedModelError
from solvers.gguf import check, write_gguf
from solvers.gguf.pretokenizers import _LLAMA3, _QWEN2, _TEKKEN
from tests.support.exports import edited
from tests.support.gguf import BOS, TEXT, VOCAB, bytewise, compact, source, spaced, split
from tests.support.llama_cpp import LlamaCpp

DENSE = [{"qk": 8, "ov": 8, "mlp": 40}] * 2
LINES = [line for line in (*TEXT.splitlines(keepends=True), TEXT, " a  b", "\n\n x") if BOS not in line]


def digits() -> Any:
    return pre_tokenizers.Digits(individual_digits=True)


CASES = {
    "gpt-2": bytewise,
    "smollm": lambda: bytewise(digits()),
    "llama-bpe": lambda: bytewise(split(_LLAMA3), prefix=BOS, ignore_merges=True),
    "smaug-bpe": lambda: bytewise(split(_LLAMA3)),
    "qwen2": lambda: bytewise(split(_QWEN2)),
    "tekken": lambda: bytewise(split(_TEKKEN), prefix=BOS, ignore_merges=True),
    "spaces": lambda: spaced(space_in_front=False),
    "space in front": lambda: spaced(space_in_front=True),
}


@pytest.mark.parametrize("name", CASES)
def test_texts_become_the_same_tokens(name: str, tmp_path: Path) -> None:
    tokenizer: Tokenizer = CASES[name]()
    folder = source(tmp_path / "source", "llama", tokenizer)
    write_gguf(compact(folder, tmp_path / "compact", DENSE), tmp_path / "gguf")
    file = tmp_path / "gguf" / "model.gguf"
    fields = GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == ("default" if "space" in name else name)
    assert fields["tokenizer.chat_template"].contents() == "{{ messages[0]['content'] }}"
    with LlamaCpp(file) as served:
        for text in LINES:
            assert served.tokens(text) == tokenizer.encode(text).ids, text
            assert served.tokens(text, special=False) == tokenizer.encode(text, add_special_tokens=False).ids
        said = {"messages": [{"role": "user", "content": "Hello there"}]}
        assert served.ask("/apply-template", said)["prompt"] == "Hello there"


def test_added_tokens_are_found_in_texts_and_ends_are_known(tmp_path: Path) -> None:
    tokenizer = bytewise(vocab=VOCAB - 5)
    tokenizer.add_tokens(["<note>"])
    folder = source(tmp_path / "source", "llama", tokenizer)
    edited(folder, eos_token_id=3, bos_token_id=0)
    edited(folder, "tokenizer_config.json", eos_token=None)
    write_gguf(compact(folder, tmp_path / "compact", DENSE), tmp_path / "gguf")
    file = tmp_path / "gguf" / "model.gguf"
    fields = GGUFReader(file).fields
    ids = {kind: fields[f"tokenizer.ggml.{kind}_token_id"].contents() for kind in ("bos", "eos")}
    assert ids == {"bos": 0, "eos": 3}
    text = f"a <note> b{BOS}"
    with LlamaCpp(file) as served:
        assert served.tokens(text) == tokenizer.encode(text).ids


def unlisted() -> Tokenizer:
    """As ``spaced``, with one pair of many not listed: it merges in another order than SentencePiece."""
    document = json.loads(spaced(space_in_front=True).to_str())
    document["model"]["merges"].pop()
    return Tokenizer.from_str(json.dumps(document))


def normalized(tokenizer: Tokenizer, by: Any) -> Tokenizer:
    tokenizer.normalizer = by
    return tokenizer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bytewise(split(r"[^\n]+|\n")), "no name for how this tokenizer cuts texts"),
        (lambda: bytewise(split(_QWEN2), ignore_merges=True), "no name for how this tokenizer cuts texts"),
        (lambda: normalized(bytewise(), normalizers.Lowercase()), "does not normalize texts by Lowercase"),
        (unlisted, "merges .* by pairs"),
        (lambda: normalized(spaced(space_in_front=True), normalizers.NFKC()), "has no NFKC"),
        (lambda: Tokenizer(models.WordLevel({"a": 0}, "a")), "of type WordLevel are not written"),
        (lambda: Tokenizer(models.Unigram([("a", -1.0)], 0)), "of type Unigram are not written"),
    ],
)
def test_another_tokenizer_is_refused_before_anything_is_measured(
    make: Any, says: str, tmp_path: Path
) -> None:
    folder = source(tmp_path, "llama", make())
    with pytest.raises(UnsupportedModelError, match=says):
        check(folder, AutoConfig.from_pretrained(folder))


def test_the_normal_form_of_qwen_passes(tmp_path: Path) -> None:
    tokenizer = normalized(bytewise(split(_QWEN2)), normalizers.NFC())
    folder = source(tmp_path, "qwen2", tokenizer)
    check(folder, AutoConfig.from_pretrained(folder))
