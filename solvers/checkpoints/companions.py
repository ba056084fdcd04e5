"""Which files travel from a model folder to what is written: all that its tokenizer may need, and what the licence asks for.

Tokenizer files are those of transformers' own lists: its constants, and the names that the tokenizer's class has for its
vocabulary. A file that no class here reads may be what another reader of the checkpoint needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
)
from transformers.utils import CHAT_TEMPLATE_DIR, CHAT_TEMPLATE_FILE, GENERATION_CONFIG_NAME

from solvers.errors import UnreadableModelError
from solvers.families import FAMILIES
from solvers.folder import COMPANION_LIMIT_BYTES, called, inside, leads_inside, tokenizer_options
from solvers.texts.tokenizer_file import tokenizer_file

_ALWAYS = frozenset(
    {
        *(FULL_TOKENIZER_FILE, ADDED_TOKENS_FILE, SPECIAL_TOKENS_MAP_FILE, CHAT_TEMPLATE_FILE),
        *("tekken.json", "tiktoken.model"),  # looked for by every class, listed by none
        GENERATION_CONFIG_NAME,
    }
)
_BACKENDS = ("TokenizersBackend", "SentencePieceBackend")
_LEGAL = re.compile(r"(licen[cs]e|notice|copying|use_policy)([._-].*)?", re.IGNORECASE)
_HUB = (
    *("config.json", "tokenizer_config.json", "README.md", "*.safetensors", "*.safetensors.index.json"),
    *("LICEN[CS]E*", "[Ll]icen[cs]e*", "NOTICE*", "[Nn]otice*", "COPYING*", "USE_POLICY*"),
    f"{CHAT_TEMPLATE_DIR}/*.jinja",
)


def companions(folder: Path, family: str) -> dict[str, Path]:
    """Name in the written folder -> file of the source, of all that is there. tokenizer_config.json, which is written anew,
    is not among them.

    Args:
        family: the source's ``model_type``.

    Raises:
        UnreadableModelError: one leads outside, or is larger than ``COMPANION_LIMIT_BYTES``; there is no tokenizer.
    """
    options = tokenizer_options(folder)
    names = tokenizer_files([family], options)
    names |= {path.name for path in folder.iterdir() if _LEGAL.fullmatch(path.name) and not path.is_dir()}
    files = {
        name: inside(folder, name, limit_bytes=COMPANION_LIMIT_BYTES)
        for name in sorted(names)
        if (folder / name).is_file()
    }
    files[FULL_TOKENIZER_FILE] = tokenizer_file(folder)
    return files | {f"{CHAT_TEMPLATE_DIR}/{file.name}": file for file in _templates(folder)}


def tokenizer_files(families: Iterable[str], options: dict[str, Any]) -> set[str]:
    """Bare names of the files that a tokenizer of these families may have, whether there or not.

    Args:
        options: of its tokenizer_config.json.
    """
    classes = {*_BACKENDS, *(TOKENIZER_MAPPING_NAMES.get(family) for family in families)}
    named = options.get("tokenizer_class")
    if isinstance(named, str):  # a class of somebody's own is none that is looked up here
        classes |= {named, named.removesuffix("Fast")} & set(TOKENIZER_MAPPING_NAMES.values())
    names = set(_ALWAYS)
    for class_name in sorted(filter(None, classes)):
        with suppress(ImportError):  # of a library that is not installed here
            names |= set(getattr(tokenizer_class_from_name(class_name), "vocab_files_names", {}).values())
    versions = options.get("fast_tokenizer_files")
    if isinstance(versions, list):
        names |= {name for name in versions if isinstance(name, str) and Path(name).name == name}
    return names


def hub_patterns() -> list[str]:
    """Patterns of all that is downloaded of a repository: never code, never pickles; of the texts those of its licence."""
    return sorted({*_HUB, *tokenizer_files(TOKENIZER_MAPPING_NAMES.keys() & FAMILIES.keys(), {})})


def _templates(folder: Path) -> Iterator[Path]:
    templates = folder / CHAT_TEMPLATE_DIR
    if not templates.is_dir():
        return
    if not leads_inside(folder, templates):
        raise UnreadableModelError(
            f"{called(folder)}: {CHAT_TEMPLATE_DIR} is a link that leaves the model folder; copy the files instead"
        )
    for file in sorted(templates.glob("*.jinja")):
        yield inside(templates, file.name, limit_bytes=COMPANION_LIMIT_BYTES)
