"""Files of records, and files that are compressed: read bit by bit, so that a small file cannot fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Literal, Protocol

from solvers.errors import TextError

INSTALL = "pip install 'rankalloc[text]'"
RECORDS = (".jsonl", ".ndjson", ".json", ".parquet")
_COMPRESSED = (".gz", ".zst")
_LONGEST_LINE_BYTES = 64 << 20
_LARGEST_FILE_BYTES = 1 << 30
"""After so much of one file, compressed or not, nothing more of it is read."""
_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


class Readable(Protocol):
    """A file here, which is a ``Path``, or one that lies elsewhere."""

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def suffixes(self) -> list[str]: ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...


def inner_suffix(path: Readable) -> str:
    """The suffix that says what a file holds: of ``chat.jsonl.gz`` it is ``.jsonl``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def opened(path: Readable, what: str) -> Iterator[IO[bytes]]:
    """A file's content, decompressed where its name ends in .gz or .zst.

    Raises:
        TextError: it is not compressed so, damaged, or the library is missing that reads .zst.
    """
    kind = path.suffix.lower()
    broken: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error)
    try:
        with path.open("rb") as file:
            if kind == ".gz":
                with gzip.open(file) as content:
                    yield content  # type: ignore[misc]
            elif kind == ".zst":
                zstandard = _library("zstandard", path, what)
                broken = (zstandard.ZstdError,)
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                yield io.BufferedReader(reader)
            else:
                yield file
    except broken as error:
        raise TextError(f"{what} text {path.name}: cannot be decompressed ({error})") from None


def record_lines(path: Readable, what: str) -> Iterator[tuple[str, Any]]:
    """(where, record) of a file with a JSON value a line, or with one list of records.

    Raises:
        TextError: a line is no JSON.
    """
    with opened(path, what) as file:
        number = size = 0
        while line := file.readline(_LONGEST_LINE_BYTES):
            number += 1
            size += len(line)
            if size > _LARGEST_FILE_BYTES:
                return
            line = line.removeprefix(_BOM) if number == 1 else line
            if number == 1 and line.lstrip().startswith(b"["):
                yield from _listed(line + file.read(_LONGEST_LINE_BYTES), path, what)
                return
            if line.strip():
                yield f"line {number}", _json(line, path, what, f"line {number}")


def _listed(content: bytes, path: Readable, what: str) -> Iterator[tuple[str, Any]]:
    for number, record in enumerate(_json(content, path, what, "the list"), 1):
        yield f"record {number}", record


def _json(content: bytes, path: Readable, what: str, place: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TextError(
            f"{what} text {path.name}: {place} is no JSON ({error}); a .jsonl file has a record a line"
        ) from None


def parquet_records(path: Readable, what: str, columns: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(where, record) of a Parquet file's rows, each with the first of these columns that the file has, or with all it has.

    Raises:
        TextError: it is no Parquet file, or the library is missing that reads it.
    """
    pyarrow, parquet = (_library(name, path, what) for name in ("pyarrow", "pyarrow.parquet"))
    try:
        with path.open("rb") as file:
            # Page by page: a file may lie elsewhere, and be read no further than its first rows.
            table = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            names = table.schema_arrow.names
            column = next((name for name in columns if name in names), None)
            if column is None:
                yield "the table", dict.fromkeys(names)
                return
            number = 0
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column]):
                    for value in batch.column(0).to_pylist():
                        number += 1
                        yield f"row {number}", {column: value}
    except (pyarrow.ArrowException, OSError) as error:
        raise TextError(f"{what} text {path.name}: no Parquet file that can be read ({error})") from None


def _library(name: str, path: Readable, what: str) -> Any:
    """A library of the extra ``text``."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise TextError(
            f"{what} text {path.name}: reading it needs {name.partition('.')[0]}, which is not installed; {INSTALL}"
        ) from None
