"""How a tokenizer.json cuts texts into words, and the name that llama.cpp has for it.

llama.cpp knows cuts by name alone (``llm_tokenizer_bpe`` in ``src/llama-vocab.cpp``); its converter finds the name by what a
tokenizer makes of one text. Here the cut itself is compared, written out: another one has no name, however near it is.
"""

from __future__ import annotations

from typing import Any

from solvers.errors import UnsupportedModelError

_GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = "one digit each"
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
}
"""(cuts in their order, whether words that are tokens are taken whole) -> name."""


def pretokenizer(document: dict[str, Any]) -> str:
    """The name of a byte-level tokenizer's cut.

    Args:
        document: of tokenizer.json.

    Raises:
        UnsupportedModelError: llama.cpp has no name for it; says what can be done.
    """
    parts = flat(document.get("pre_tokenizer"), "pretokenizers")
    cuts = tuple(cut for part in parts if (cut := _cut(part)) is not None)
    takes_whole_words = bool(document["model"].get("ignore_merges"))
    name = _NAMES.get((cuts, takes_whole_words))
    if name is None or parts[-1]["type"] != "ByteLevel":
        shown = " then ".join(cuts) or "none"
        raise UnsupportedModelError(
            f"gguf: llama.cpp has no name for how this tokenizer cuts texts ({shown[:200]}); of those that it has"
            f" {', '.join(sorted(set(_NAMES.values())))} are written. Serve the compact checkpoint with transformers instead"
        )
    return name


def flat(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A part of tokenizer.json without its sequences."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [leaf for member in part[inner] for leaf in flat(member, inner)]


def _cut(part: dict[str, Any]) -> str | None:
    """The rule that a pre-tokenizer cuts by; None where it cuts nothing."""
    kind = part["type"]
    if kind == "ByteLevel" and not part.get("add_prefix_space", True):
        return _GPT2 if part.get("use_regex", True) else None
    if kind == "Digits" and part.get("individual_digits"):
        return _DIGITS
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return str(part["pattern"].get("Regex", part["pattern"]))
    return f"{kind} { ({key: value for key, value in part.items() if key != 'type'}) }"
