"""The last lines that a worker wrote to standard error before it died, for whoever has to say why a job crashed.

While an item runs its process writes into a file beside the attempt's scratch folder; a thread copies that to where
standard error led before. A killed process leaves the file, and only its last moments are missing from the worker's log.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from allocator.base.settings import Settings
from allocator.store import Item

_STDERR = 2
_COPY_INTERVAL_S = 0.5
_BLOCK = 1 << 16
_TAIL_BYTES, _TAIL_LINES, _LINE_CHARACTERS = 1 << 13, 20, 300

_HIDDEN = (
    # user:password@host of a URL
    (re.compile(r"://[^\s/@]*@"), "://...@"),
    # tokens by their beginnings, and whatever is called a secret
    (re.compile(r"\b(?:hf_|sk-|gh[pousr]_|xox[abp]-|ra_)[\w-]{8,}"), "..."),
    (
        re.compile(
            r"(?i)\b(\w*(?:token|secret|password|passwd|api_?key|authorization))"
            r"([\"']?\s*[=:]\s*)(?:bearer\s+)?[\"']?[^\s\"',;]+[\"']?"
        ),
        r"\1\2...",
    ),
    # folders of a path; its last name says enough
    (re.compile(r"(?<![\w.:/])~?(?:/[^\s/\"':,;()<>]+)+/"), ""),
    (re.compile(r"(?<![\w.:/])/(?=[^\s/])"), ""),
    # colours, and what else is no text
    (re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]"), ""),
    (re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]"), " "),
)


def file_of(settings: Settings, item_id: str, attempt: int) -> Path:
    """The file that an attempt's standard error goes to; removed with its scratch folder (`cleanup`)."""
    return settings.tmp_dir / f"{item_id}-{attempt}.log"


@contextmanager
def recorded_stderr(settings: Settings, item: Item) -> Iterator[None]:
    """Keep what this process writes to standard error while the block runs; removed when the block ends."""
    path = file_of(settings, item.id, item.attempt)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
    except OSError:  # a full disk must not keep an item from saying so
        yield
        return
    before, stop = os.dup(_STDERR), threading.Event()
    follower = threading.Thread(target=_follow, args=(path, before, stop), name="stderr", daemon=True)
    os.dup2(descriptor, _STDERR)
    os.close(descriptor)
    follower.start()
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(before, _STDERR)
        stop.set()
        follower.join()
        os.close(before)
        path.unlink(missing_ok=True)


def _follow(path: Path, output: int, stop: threading.Event) -> None:
    with suppress(OSError), path.open("rb") as file:
        over = False
        while not over:
            over = stop.wait(_COPY_INTERVAL_S)
            while block := file.read(_BLOCK):
                os.write(output, block)


def tail(settings: Settings, item: Item) -> list[str]:
    """The last lines that an attempt wrote, without folders, addresses' credentials and tokens; none where it wrote none."""
    try:
        with file_of(settings, item.id, item.attempt).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [_shown(line) for line in text.splitlines()]
    return [line for line in lines if line][-_TAIL_LINES:]


def _shown(line: str) -> str:
    for pattern, replacement in _HIDDEN:
        line = pattern.sub(replacement, line)
    line = line.rstrip()
    return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + " ..."
