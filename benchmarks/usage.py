"""Resources of a command while it runs: memory of its processes, bytes of its folder. Linux alone tells both."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_STATUS = re.compile(r"^PPid:\s*(\d+).*?^VmHWM:\s*(\d+) kB", re.DOTALL | re.MULTILINE)
_PERIOD_S = 1.0
_FOLDER_EVERY = 5
"""Walking through a folder takes longer than looking at processes."""


@dataclass
class Usage:
    """The most that was seen, in bytes."""

    process_bytes: int = 0
    """Resident memory of the largest process, by the kernel's own high-water mark."""
    folder_bytes: int = 0
    """Bytes of the folder's files on disk."""

    @classmethod
    def read(cls, path: Path) -> Usage:
        """The most that was seen until now; nothing where the file is not there."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def process_bytes(root: int) -> int:
    """The largest high-water mark of resident memory of a process and all below it; 0 where it has ended."""
    parents, marks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                match = _STATUS.search((entry / "status").read_text(encoding="utf-8"))
            except OSError:
                continue  # it has ended
            if match:  # a zombie has no memory
                parents[int(entry.name)], marks[int(entry.name)] = int(match[1]), 1024 * int(match[2])

    def below(process: int) -> bool:
        while process != root and process in parents:
            process = parents[process]
        return process == root

    return max((mark for process, mark in marks.items() if below(process)), default=0)


def folder_bytes(folder: Path) -> int:
    """Bytes of a folder's files on disk; one with two names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue  # temporary files go
            sizes[status.st_dev, status.st_ino] = 512 * status.st_blocks
    return sum(sizes.values())


def watched(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, folder: Path, file: Path
) -> tuple[int, Usage]:
    """Run a command to its end and write down the most it takes; what ``file`` holds already, of a run cut short, counts.

    Returns:
        Exit status and the most that was seen.
    """
    usage, turn = Usage.read(file), 0
    with subprocess.Popen(command, env=env, cwd=cwd) as process:
        try:
            while process.poll() is None:
                usage.process_bytes = max(usage.process_bytes, process_bytes(process.pid))
                if turn % _FOLDER_EVERY == 0:
                    usage.folder_bytes = max(usage.folder_bytes, folder_bytes(folder))
                    usage.write(file)
                turn += 1
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_PERIOD_S)
        except KeyboardInterrupt:
            process.wait()  # it got the same signal, and stops at its next safe point
            raise
    usage.folder_bytes = max(usage.folder_bytes, folder_bytes(folder))
    usage.write(file)
    return process.returncode, usage
