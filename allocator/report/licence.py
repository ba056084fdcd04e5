"""The licence that a model folder states: in its README's front matter, else by its licence file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MOST = 1 << 16
_FIELD = re.compile(
    r"""^(license|license_name|license_link):[ \t]*["']?([^\s"'#\[\]{}]{1,200})["']?[ \t]*(?:#.*)?$""",
    re.MULTILINE,
)
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_TEXTS = {
    "apache-2.0": ("Apache License", "Version 2.0"),
    "mit": ("Permission is hereby granted, free of charge", 'THE SOFTWARE IS PROVIDED "AS IS"'),
    "bsd-3-clause": ("Redistribution and use in source and binary forms", "Neither the name"),
}
"""Identifier -> phrases that together stand in no other of these licences."""


@dataclass(frozen=True)
class Licence:
    """A licence as a model card's front matter names it."""

    identifier: str
    """As the hub writes it, such as ``apache-2.0``; ``other`` with a name; ``unknown``."""
    name: str | None
    link: str | None
    file: str | None
    """The file that states it; None: none does."""


UNKNOWN = Licence("unknown", None, None, None)


def licence_of(folder: Path, follows: Callable[[Path], bool] = lambda link: False) -> Licence:
    """The licence that a model folder states. A text that is not recognised is ``other``, named by its first line's words.

    Args:
        follows: whether a link in the folder may be read; one might lead anywhere.
    """

    def read(name: str) -> str:
        file = folder / name
        return _read(file) if not file.is_symlink() or follows(file) else ""

    fields = dict(_FIELD.findall(_front_matter(read("README.md"))))
    identifier = fields.get("license", "").lower()
    if _IDENTIFIER.fullmatch(identifier) and identifier != "unknown":
        return Licence(identifier, fields.get("license_name"), fields.get("license_link"), "README.md")
    for name in _FILES:
        text = read(name)
        if text.strip():
            joined = " ".join(text.split())
            for recognised, phrases in _TEXTS.items():
                if all(phrase in joined for phrase in phrases):
                    return Licence(recognised, None, None, name)
            first = re.sub(r"[^a-z0-9]+", "-", text.strip().splitlines()[0].lower()).strip("-")[:60]
            return Licence("other", first or "see-licence-file", name, name)
    return UNKNOWN


def _front_matter(text: str) -> str:
    match = re.match(r"---[ \t]*\r?\n(.*?)\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    return match[1].replace("\r", "") if match else ""


def _read(file: Path) -> str:
    """The beginning of a file."""
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return opened.read(_MOST).decode("utf-8", errors="replace")
