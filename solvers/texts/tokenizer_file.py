"""The tokenizer.json of a model folder, or one that is made of the files that older exports have in its place.

``tokenizer.model`` (sentencepiece), or ``vocab.json`` with ``merges.txt``: a class of transformers' own reads them, in a
bounded process that sees these files alone. What the folder names as code does not reach it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from solvers import bounded
from solvers.errors import UnreadableModelError
from solvers.folder import (
    COMPANION_LIMIT_BYTES,
    CONFIG_LIMIT_BYTES,
    called,
    inside,
    read_json,
    tokenizer_options,
)

NAME = "tokenizer.json"
_OLDER = (("tokenizer.model",), ("vocab.json", "merges.txt"))
"""Sets of files that hold a whole vocabulary."""
_BESIDE = ("added_tokens.json", "special_tokens_map.json")
SOURCES = (NAME, *(name for names in _OLDER for name in names), *_BESIDE)
"""Files that the tokenizer of a folder may depend on, beside tokenizer_config.json."""
_SENTENCEPIECE = ("sentencepiece", "google.protobuf")
_INSTALL = "pip install sentencepiece protobuf"


def tokenizer_file(folder: Path) -> Path:
    """A tokenizer.json: the folder's own, or one of this process that lasts as long as it does.

    Raises:
        UnreadableModelError: there is none and nothing to make one of, or that cannot be done.
    """
    older = next((names for names in _OLDER if all((folder / name).is_file() for name in names)), None)
    if (folder / NAME).exists() or older is None:
        return inside(folder, NAME, limit_bytes=COMPANION_LIMIT_BYTES)
    files = {
        name: inside(folder, name, limit_bytes=COMPANION_LIMIT_BYTES)
        for name in (*older, *_BESIDE)
        if (folder / name).is_file()
    }
    config = read_json(folder, "config.json", CONFIG_LIMIT_BYTES)
    options = {key: value for key, value in tokenizer_options(folder).items() if key != "auto_map"}
    kind: dict[str, Any] = {key: config[key] for key in ("model_type", "tokenizer_class") if key in config}
    if older[0].endswith(".model") and not all(map(_installed, _SENTENCEPIECE)):
        raise UnreadableModelError(
            f"{called(folder)}: {NAME} is missing, and {older[0]} needs another library to be read: {_INSTALL}"
        )
    converted = _converted(_Sources(files, kind, options))
    if isinstance(converted, str):
        raise UnreadableModelError(
            f"{called(folder)}: {NAME} is missing, and none can be made of {older[0]}: {converted}"
        )
    return converted


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package above it
        return False


class _Sources:
    """The files and options that a tokenizer is made of; equal where all of them are, wherever they lie."""

    def __init__(self, files: dict[str, Path], kind: dict[str, Any], options: dict[str, Any]) -> None:
        self.files = files
        self.documents = {"config.json": json.dumps(kind), "tokenizer_config.json": json.dumps(options)}
        total = hashlib.sha256(repr(sorted(self.documents.items())).encode())
        for name, path in sorted(files.items()):
            total.update(f"{name}|{path.stat().st_size}|".encode() + path.read_bytes())
        self.sha256 = total.hexdigest()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sources) and self.sha256 == other.sha256


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    """The folder in which this process keeps the files that it made; gone when it ends."""
    return tempfile.TemporaryDirectory(prefix="rankalloc-tokenizers-")


@functools.lru_cache(maxsize=8)
def _converted(sources: _Sources) -> Path | str:
    """The file that was made, or why there is none."""
    place = Path(_place().name) / sources.sha256
    source_folder = place / "source"
    source_folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, path in sources.files.items():
            shutil.copyfile(path, source_folder / name)
        for name, text in sources.documents.items():
            (source_folder / name).write_text(text, encoding="utf-8")
        child = bounded.run(
            Path(__file__).with_name("converting.py"), [str(source_folder), str(place / NAME)]
        )
    finally:
        shutil.rmtree(source_folder, ignore_errors=True)
    if child.returncode < 0:
        return f"it needs more than {bounded.LIMITS} (signal {-child.returncode})"
    report: dict[str, str] = json.loads(child.stdout.splitlines()[-1])
    return report["error"] if "error" in report else place / NAME
