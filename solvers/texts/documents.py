"""The content of a text file or folder: plain text, or records with a text or a conversation each.

    .txt and whatever has no other name here    one plain text, UTF-8
    .jsonl .ndjson .json                        a record a line, or a JSON list of records
    .parquet                                    a record a row
    .gz .zst behind any but the last            compressed
    a folder                                    all such files in it, by name

A record's text is in column ``text``, or else in ``messages`` [{role, content}, ...], or in the column that is named.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solvers.errors import TextError
from solvers.texts.records import RECORDS, Readable, inner_suffix, opened, parquet_records, record_lines

READ_LIMIT_BYTES = 64 << 20
SEPARATOR = "\n\n"
"""Between documents, as GPTQ and its successors join those of WikiText: no tokenizer lacks it, as some lack an EOS."""
_COLUMNS = ("text", "messages")
_IN_FOLDERS = (".txt", ".jsonl", ".ndjson", ".parquet")
"""Files of a folder that are read without being named; a .json beside a data set is mostly something else."""
_SHOWN = 8

Conversation = list[dict[str, Any]]


@dataclass(frozen=True)
class Documents:
    """Texts or conversations, never both; ``sha256`` is of ``text``, and of plain files of their bytes."""

    text: str
    sha256: str
    count: int
    form: str
    note: str = ""
    conversations: list[Conversation] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.conversations and not self.text.strip()


def read_documents(path: Path, *, what: str, column: str | None = None) -> Documents:
    """Read at most the first 64 MiB of text of a file or folder.

    Args:
        what: how the text is called in errors, for instance "calibration".
        column: where records have their text or conversation; plain files have none. Default: ``text``, else ``messages``.

    Raises:
        TextError: missing, not in the form that its name says, or a library is missing that reads it.
    """
    if path.is_dir():
        files, others = _files(path)
        if not files:
            raise TextError(f"{what} text {path.name}: the folder holds no {', '.join(_IN_FOLDERS)} files")
    elif path.is_file():
        files, others = [path], 0
    else:
        raise TextError(
            f"{what} text {path}: no such file; name a UTF-8 text file, a .jsonl or .parquet file, or a folder"
        )
    if len(files) == 1 and not path.is_dir() and inner_suffix(path) not in RECORDS:
        return _plain(path, what)
    notes = [f"{others} files of other kinds were left out"] if others else []
    texts: list[str] = []
    conversations: list[Conversation] = []
    size = 0
    for file in files:
        for value in values_of(file, what, column):
            if isinstance(value, str):
                texts.append(value)
            else:
                conversations.append(value)
            size += size_of(value)
            if size >= READ_LIMIT_BYTES:
                break
        if texts and conversations:
            raise TextError(
                f"{what} text {path.name}: has both texts and conversations; keep them in files of their own"
            )
        if size >= READ_LIMIT_BYTES:
            notes.append(f"only the first {READ_LIMIT_BYTES >> 20} MiB were read")
            break
    if conversations:
        form = "conversations through the chat template"
        return Documents("", "", len(conversations), form, "; ".join(notes), conversations)
    text = SEPARATOR.join(texts)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    form = f"texts of column {column!r}" if column else "texts"
    return Documents(text, sha256, len(texts), form, "; ".join(notes))


def size_of(value: str | Conversation) -> int:
    """How many bytes count towards a limit on what is read."""
    return len(value.encode()) if isinstance(value, str) else len(json.dumps(value))


def _files(folder: Path) -> tuple[list[Path], int]:
    """The files of a folder that hold texts, by their place in it, and how many others there are; none that are hidden."""
    files, others = [], 0
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        if inner_suffix(path) in _IN_FOLDERS:
            files.append(path)
        else:
            others += 1
    return files, others


def _plain(path: Path, what: str) -> Documents:
    """A plain text, named by its bytes as they are when nothing compresses them."""
    raw, text = _plain_text(path, what)
    notes = []
    if len(raw) >= READ_LIMIT_BYTES:
        notes.append(f"only the first {READ_LIMIT_BYTES >> 20} MiB were read")
    if _looks_like_records(text):
        notes.append(
            "its first line is a JSON object, which was read as it stands: name the file .jsonl to read its texts"
        )
    return Documents(text, hashlib.sha256(raw).hexdigest(), 1, "plain text", "; ".join(notes))


def _plain_text(path: Readable, what: str) -> tuple[bytes, str]:
    with opened(path, what) as file:
        raw = file.read(READ_LIMIT_BYTES)
    try:
        # Where the limit cuts a character in two, its first half is left out.
        text = codecs.getincrementaldecoder("utf-8")().decode(raw, final=len(raw) < READ_LIMIT_BYTES)
    except UnicodeDecodeError as error:
        raise TextError(
            f"{what} text {path.name}: not UTF-8 at byte {error.start}; convert it first"
        ) from None
    return raw, text


def _looks_like_records(text: str) -> bool:
    line = text[:READ_LIMIT_BYTES].lstrip().partition("\n")[0].strip()
    if not (line.startswith("{") and line.endswith("}")):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def values_of(file: Readable, what: str, column: str | None) -> Iterator[str | Conversation]:
    """The texts or conversations of a file, in order; empty ones are left out. Raises TextError as ``read_documents``."""
    kind = inner_suffix(file)
    if kind not in RECORDS:
        _, text = _plain_text(file, what)
        yield from [text] if text.strip() else []
        return
    records: Iterable[tuple[str, Any]]
    columns = (column,) if column else _COLUMNS
    records = parquet_records(file, what, columns) if kind == ".parquet" else record_lines(file, what)
    for place, record in records:
        value = _value(record, columns, f"{what} text {file.name}: {place}")
        if value:
            yield value


def _value(record: Any, columns: tuple[str, ...], place: str) -> str | Conversation | None:
    """A record's text or conversation; None where it is null or blank."""
    if not isinstance(record, dict):
        raise TextError(f"{place} is no object but {type(record).__name__}; a record is {{'text': ...}}")
    name = next((name for name in columns if name in record), None)
    if name is None:
        present = ", ".join(map(repr, list(record)[:_SHOWN])) or "nothing"
        raise TextError(
            f"{place} has no column {' or '.join(map(repr, columns))} but {present}; name the one with the text: --text-column"
        )
    value = record[name]
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if value.strip() else None
    if isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in value
    ):
        # A table has every key in every row; templates look at which ones are there.
        return [{key: part for key, part in message.items() if part is not None} for message in value] or None
    raise TextError(
        f"{place}: column {name!r} is neither a text nor a list of messages with role and content; name another: --text-column"
    )
