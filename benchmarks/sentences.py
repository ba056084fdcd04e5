"""A model that was trained on single sentences, made ready for windows of one sentence each."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tokenizers import Tokenizer

_END = re.compile(r"(?<=[.!?])[\"']*\s+")


def beginnings(text: str, tokenizer: Tokenizer, tokens: int) -> list[str]:
    """The first ``tokens`` tokens of every sentence that has as many, as they stand in the text."""
    starts = []
    for sentence in _END.split(text):
        encoded = tokenizer.encode(sentence, add_special_tokens=False)
        if len(encoded.ids) >= tokens:
            starts.append(sentence[: encoded.offsets[tokens - 1][1]])
    return starts


def by_sentence(folder: Path, texts: dict[Path, Path], out: Path, tokens: int) -> Path:
    """A copy of the model whose context is its start token and ``tokens`` more, and texts that fill it sentence by sentence.

    Cut into windows of the copy's context, each of the new texts gives one window a sentence.

    Args:
        texts: text -> where to write the beginnings of its sentences.

    Returns:
        ``out``, the copy: the same weights, another longest context, the start token put in front.

    Raises:
        ValueError: the tokenizer reads the joined beginnings differently from each by itself.
    """
    shutil.copytree(folder, out)
    for name, changes in (
        ("config.json", {"max_position_embeddings": tokens + 1}),
        ("tokenizer_config.json", {"add_bos_token": True, "model_max_length": tokens + 1}),
    ):
        document = json.loads((out / name).read_text(encoding="utf-8"))
        (out / name).write_text(json.dumps({**document, **changes}, indent=2), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.no_truncation()
    for text, target in texts.items():
        starts = beginnings(text.read_text(encoding="utf-8"), tokenizer, tokens)
        joined = "\n".join(starts)
        if len(tokenizer.encode(joined, add_special_tokens=False).ids) != tokens * len(starts):
            raise ValueError(f"{folder.name}: its tokenizer reads a sentence differently among others")
        target.write_text(joined, encoding="utf-8")
    return out
