"""Tokenizers and texts that somebody made on purpose, and what the refusal says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.folders import Harm, replaced


def tokenizer(change: Callable[[dict[str, Any]], None]) -> Harm:
    def harm(model: Path) -> None:
        found = json.loads((model / "tokenizer.json").read_text())
        change(found)
        (model / "tokenizer.json").write_text(json.dumps(found))

    return harm


def part(**parts: Any) -> Harm:
    return tokenizer(lambda found: found.update(parts))


def split(pattern: dict[str, str]) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _cycle(depth: int) -> dict[str, Any]:
    """The nearest that JSON comes to a cycle."""
    found: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        found = {"type": "Sequence", "normalizers": [found]}
    return found


_SPECIAL = {"SpecialToken": {"id": "x", "type_id": 0}}
_TEXT = {"Sequence": {"id": "A", "type_id": 0}}
_PREFIX = {"x": {"id": "x", "ids": [0] * 10_000, "tokens": ["x"] * 10_000}}


def template(count: int, special: dict[str, Any]) -> dict[str, Any]:
    pair = [_TEXT, {"Sequence": {"id": "B", "type_id": 0}}]
    single = [_SPECIAL] * count + [_TEXT]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


_BOMB = {"type": "Sequence", "normalizers": [replace({"String": "e"}, "e" * 600)] * 3}

TOKENIZERS: dict[str, tuple[Harm, str]] = {
    "a link to itself": (
        replaced("tokenizer.json", lambda p: p.symlink_to(p.name)),
        "tokenizer.json is missing",
    ),
    "nested 300 deep": (part(normalizer=_cycle(300)), "recursion limit"),
    "65 MiB": (
        lambda m: (m / "tokenizer.json").write_bytes(b" " * (65 << 20)),
        "tokenizer.json is larger than 67108864",
    ),
    "a bomb": (part(normalizer=_BOMB), "more than 4 GiB of memory"),
    "a pattern without end": (
        part(pre_tokenizer=split({"Regex": "(([^x]*)*)*y\\1"})),
        "cannot encode|retry-limit",
    ),
    "half a pattern": (part(pre_tokenizer=split({"Regex": "("})), "does not load"),
    "nothing replaced by something": (part(normalizer=replace({"Regex": ""}, "zz")), "cannot encode a text"),
    "pieces of no length": (part(pre_tokenizer={"type": "FixedLength", "length": 0}), "cannot encode a text"),
    "a template without its token": (part(post_processor=template(5, {})), "cannot encode a text"),
    "10,000,000 leading tokens": (part(post_processor=template(1000, _PREFIX)), "10000000 tokens in front"),
    "a broken table": (
        part(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        "needs more than|does not load",
    ),
    "a negative id": (tokenizer(lambda found: found["model"]["vocab"].update(zz=-1)), "does not load"),
    "ids of another model": (
        tokenizer(
            lambda found: found["model"].update(
                vocab={k: v + 10**6 for k, v in found["model"]["vocab"].items()}
            )
        ),
        "vocabulary ends at 2047",
    ),
    "no vocabulary": (part(model={"type": "Unigram", "unk_id": 0, "vocab": []}), "does not load"),
    "no unknown token": (
        part(model={"type": "WordLevel", "unk_token": "no", "vocab": {"a": 0}}),
        "cannot encode",
    ),
    "code": (part(model={"type": "Python", "code": "import os"}), "does not load"),
}


def text(content: bytes) -> Harm:
    def harm(model: Path) -> None:
        (model / "calibration.txt").write_bytes(content)

    return harm


TEXTS: dict[str, tuple[Harm, str]] = {
    "NUL bytes alone": (lambda m: _vocabulary_of_one(m, text(b"\0" * 10**6)), "too short|tokenizer"),
    "spaces alone": (text(b" " * 10**7), "empty"),
    "invalid UTF-8": (text(b"x = 1\n" * 10**4 + b"\xc3\x28"), "not UTF-8 at byte 60000"),
    "UTF-16": (text("x = 1\n".encode("utf-16") * 10**4), "not UTF-8 at byte 0"),
    "surrogates": (text(b"\xed\xa0\x80" * 10**4), "not UTF-8 at byte 0"),
    "a device": (replaced("calibration.txt", lambda p: p.symlink_to("/dev/zero")), "no calibration"),
    "a link outside": (
        replaced("calibration.txt", lambda p: p.symlink_to("/etc/services")),
        "no calibration",
    ),
    "a link to itself": (replaced("calibration.txt", lambda p: p.symlink_to(p.name)), "no calibration"),
}


def _vocabulary_of_one(model: Path, then: Harm) -> None:
    part(model={"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0}}, pre_tokenizer=None)(model)
    then(model)
