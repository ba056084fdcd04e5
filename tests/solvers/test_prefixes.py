"""What a tokenizer puts in front of a text, for every kind of post-processor: windows begin with that, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import (
    BertProcessing,
    ByteLevel,
    RobertaProcessing,
    Sequence,
    TemplateProcessing,
)

from solvers.texts.text import read_text

BOS, EOS = 61, 62


def template(single: str) -> Any:
    tokens = [("<s>", BOS), ("</s>", EOS)]
    return TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=tokens)


def two_ids() -> Any:
    """One piece of a template that stands for two ids."""
    both = {"id": "<s>", "ids": [BOS, EOS], "tokens": ["<s>", "</s>"]}
    return TemplateProcessing(single="<s> $A </s>", pair="$A $B", special_tokens=[both, ("</s>", EOS)])


PROCESSORS: dict[str, tuple[Any, list[int]]] = {
    "none": (None, []),
    "template without tokens": (template("$A"), []),
    "template, BOS": (template("<s> $A"), [BOS]),
    "template, BOS and EOS": (template("<s> $A </s>"), [BOS]),
    "template, EOS": (template("$A </s>"), []),
    "template, two and EOS": (two_ids(), [BOS, EOS]),
    "roberta": (RobertaProcessing(("</s>", EOS), ("<s>", BOS)), [BOS]),
    "bert": (BertProcessing(("</s>", EOS), ("<s>", BOS)), [BOS]),
    "byte level": (ByteLevel(trim_offsets=True), []),
    "sequence, BOS": (Sequence([ByteLevel(trim_offsets=False), template("<s> $A")]), [BOS]),
    "sequence, BOS and EOS": (Sequence([ByteLevel(), template("<s> $A </s>")]), [BOS]),
    "sequence, EOS": (Sequence([template("$A </s>"), ByteLevel()]), []),
    "sequence, roberta": (
        Sequence([RobertaProcessing(("</s>", EOS), ("<s>", BOS)), ByteLevel()]),
        [BOS],
    ),
}


def folder_with(processor: Any, folder: Path, **options: Any) -> Path:
    words = {**{f"w{n}": n for n in range(61)}, "<s>": BOS, "</s>": EOS}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if processor is not None:
        tokenizer.post_processor = processor
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def windows_of(folder: Path, content: str) -> tuple[list[list[int]], tuple[int, ...]]:
    path = folder / "text.txt"
    path.write_text(content)
    found = read_text(path, folder, window=8, what="calibration")
    return found.windows.tolist(), found.prefix


@pytest.mark.parametrize("name", PROCESSORS)
def test_windows_begin_with_what_precedes_a_text(name: str, tmp_path: Path) -> None:
    processor, prefix = PROCESSORS[name]
    windows, found = windows_of(folder_with(processor, tmp_path), " ".join(["w5 w6 w7"] * 100))
    assert found == tuple(prefix)
    body = [5, 6, 7] * 100
    size = 8 - len(prefix)
    assert windows == [prefix + body[i * size : (i + 1) * size] for i in range(len(body) // size)]


def test_a_token_that_the_options_put_in_front_counts_where_the_tokenizer_puts_one_behind(
    tmp_path: Path,
) -> None:
    folder = folder_with(template("$A </s>"), tmp_path, add_bos_token=True, bos_token="<s>")
    assert windows_of(folder, "w5 " * 200)[1] == (BOS,)


@pytest.mark.parametrize(
    ("beginning", "own"), [("\n" * 1000, []), ("<s></s>", [BOS, EOS]), ("\n\t </s>", [EOS])]
)
def test_how_a_text_begins_is_no_matter(beginning: str, own: list[int], tmp_path: Path) -> None:
    """Blank lines give no ids, and special tokens that the text itself spells are its own."""
    folder = folder_with(template("<s> $A </s>"), tmp_path)
    windows, prefix = windows_of(folder, beginning + " w5" * 200)
    assert prefix == (BOS,)
    assert windows[0][: len(own) + 2] == [BOS, *own, 5]
