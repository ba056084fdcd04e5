"""A tokenizer.json as llama.cpp's vocabularies: byte-level BPE (``gpt2``), and BPE out of SentencePiece (``llama``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.folder import COMPANION_LIMIT_BYTES, called, read_json
from solvers.gguf.pretokenizers import flat, pretokenizer
from solvers.texts.text import leading_token
from solvers.texts.tokenizer_file import tokenizer_file
from solvers.texts.tokenizing import TokenizingError, token_ids

_SPACE = "▁"
_NO_SCORE = -1e6
"""The score of tokens that no merge makes."""
_PROBE = "a"


@dataclass(frozen=True)
class Vocabulary:
    """``scores`` and ``space_prefix`` are of ``llama`` alone, ``merges`` of ``gpt2``."""

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float]
    space_prefix: bool
    special: SpecialVocab

    def add_to(self, writer: GGUFWriter) -> None:
        """Write the keys, the chat template's too."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_prefix)
        self.special.add_to_gguf(writer, quiet=True)


def read_vocabulary(folder: Path, config: Any) -> Vocabulary:
    """The vocabulary of a model folder, as long as the model's embeddings.

    Raises:
        UnsupportedModelError: llama.cpp would cut or merge texts in another way.
        UnreadableModelError: tokenizer.json is none.
    """
    file = tokenizer_file(folder)
    document = read_json(file.parent, file.name, COMPANION_LIMIT_BYTES)
    try:
        return _vocabulary(folder, document, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableModelError(f"{called(folder)}: tokenizer.json is no tokenizer ({error})") from None


def _vocabulary(folder: Path, document: dict[str, Any], config: Any) -> Vocabulary:
    model, size = document["model"], config.vocab_size
    if model["type"] != "BPE":
        raise UnsupportedModelError(f"gguf: tokenizers of type {model['type']} are not written; BPE is")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UnsupportedModelError("gguf: the tokenizer marks parts of words, which llama.cpp does not")
    added = {entry["id"]: entry for entry in document.get("added_tokens") or ()}
    bytewise = any(
        part["type"] == "ByteLevel" for part in flat(document.get("pre_tokenizer"), "pretokenizers")
    )
    scores, prefix = {}, False
    if bytewise:
        pre = pretokenizer(document)
        _check_normalizer(document)
    else:
        pre, prefix = "default", _space_prefix(document)
        scores = _scores(model, {entry["content"] for entry in added.values()})
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [TokenType.UNUSED] * size
    for token, index in model["vocab"].items():
        if index < size:
            tokens[index], types[index] = token, _type(token, model, bytewise)
    for index, entry in added.items():
        if index < size:
            special, content = entry["special"], entry["content"]
            tokens[index] = content if special or bytewise else content.replace(_SPACE, " ")
            types[index] = TokenType.CONTROL if special else TokenType.USER_DEFINED
            if not bytewise and content == model.get("unk_token"):
                types[index] = TokenType.UNKNOWN
    return Vocabulary(
        model="gpt2" if bytewise else "llama",
        pre=pre,
        tokens=tokens,
        types=types,
        scores=[scores.get(token, _NO_SCORE) for token in tokens],
        space_prefix=prefix,
        special=_special(folder, config, merges=bytewise),
    )


def _type(token: str, model: dict[str, Any], bytewise: bool) -> TokenType:
    if not bytewise and token == model.get("unk_token"):
        return TokenType.UNKNOWN
    return TokenType.BYTE if not bytewise and token in _BYTES else TokenType.NORMAL


_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}


def _check_normalizer(document: dict[str, Any]) -> None:
    """NFC alone passes, which llama.cpp leaves out: texts that are not in that form become other tokens there."""
    for part in flat(document.get("normalizer"), "normalizers"):
        if part["type"] != "NFC":
            raise UnsupportedModelError(f"gguf: llama.cpp does not normalize texts by {part['type']}")


def _space_prefix(document: dict[str, Any]) -> bool:
    """Whether a text gets a space in front, of a tokenizer that writes spaces as SentencePiece does.

    Raises:
        UnsupportedModelError: it does not.
    """
    prefix, replaced = False, False
    for part in (
        *flat(document.get("normalizer"), "normalizers"),
        *flat(document.get("pre_tokenizer"), "pretokenizers"),
    ):
        kind = part["type"]
        if kind == "Prepend" and part["prepend"] == _SPACE:
            prefix = True
        elif kind == "Replace" and part["pattern"] == {"String": " "} and part["content"] == _SPACE:
            replaced = True
        elif kind == "Metaspace" and part["replacement"] == _SPACE and not part.get("split", True):
            replaced, prefix = True, part.get("prepend_scheme", "always") != "never"
        elif kind != "Split" or part["pattern"] != {"String": " "} or not replaced:
            raise UnsupportedModelError(f"gguf: llama.cpp has no {kind} as this tokenizer has it")
    if not replaced:
        raise UnsupportedModelError(
            f"gguf: the tokenizer is neither byte-level nor one that writes spaces as {_SPACE}"
        )
    return prefix


def _scores(model: dict[str, Any], added: set[str]) -> dict[str, float]:
    """Token -> score, so that merging what scores most merges in the tokenizer's own order.

    SentencePiece, and llama.cpp after it, joins any two neighbours that make a token, the best token first; tokenizer.json
    lists pairs. Both are the same where every pair that makes a token is listed, and those of one token stand together: as
    in conversions of a tokenizer.model.

    Raises:
        UnsupportedModelError: they are not the same here.
    """
    if not model.get("byte_fallback") or not model["vocab"].keys() >= _BYTES:
        raise UnsupportedModelError(
            "gguf: the tokenizer has no tokens for single bytes, which llama.cpp needs"
        )
    pairs = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    scores: dict[str, float] = {}
    previous = None
    for left, right in pairs:
        merged = left + right
        if merged in scores and merged != previous:
            raise _other_order(merged)
        scores.setdefault(merged, -float(len(scores)))
        previous = merged
    listed = set(pairs)
    for token in model["vocab"].keys() - added - _BYTES:
        for pair in _splits(token, model["vocab"]):
            if pair not in listed:
                raise _other_order(token)
    return scores


def _splits(token: str, vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    for cut in range(1, len(token)):
        if token[:cut] in vocab and token[cut:] in vocab:
            yield token[:cut], token[cut:]


def _other_order(token: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"gguf: the tokenizer merges {token!r} by pairs, llama.cpp by tokens, which gives other tokens here;"
        " serve the compact checkpoint with transformers instead"
    )


def _special(folder: Path, config: Any, *, merges: bool) -> SpecialVocab:
    """BOS, EOS and the others, which of them a text gets in front and behind, and the chat template."""
    special = SpecialVocab(folder, load_merges=merges, n_vocab=config.vocab_size)
    try:
        _, prefix = token_ids(tokenizer_file(folder), _PROBE, bos=leading_token(folder))
    except TokenizingError as error:
        raise UnreadableModelError(f"{called(folder)}: {error}") from None
    if len(prefix) > 1:
        raise UnsupportedModelError(
            f"gguf: the tokenizer puts {len(prefix)} tokens in front of every text; one is written"
        )
    if prefix:
        special.special_token_ids["bos"] = prefix[0]
    special.add_special_token["bos"] = bool(prefix)
    special.add_special_token.setdefault("eos", False)
    for kind in ("bos", "eos", "pad"):  # what equals transformers' default is in no config.json
        named = getattr(config, f"{kind}_token_id", None)
        special._set_special_token(kind, named[0] if isinstance(named, list) and named else named)
    return special
