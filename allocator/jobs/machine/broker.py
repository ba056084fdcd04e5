"""The embedded broker: kombu's ``filesystem://`` with messages that appear whole.

Kombu creates a message's file and writes it afterwards; a consumer that looks in between reads an empty
message and dies of it. Here a message is written under another name and renamed. Taken messages are renamed
too, inside the same folder: kombu moves them through the system's temporary folder, which may be another file
system.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

_SUFFIX, _WRITING, _TAKEN = ".msg", ".writing", ".taken"


class Channel(filesystem.Channel):
    """Messages of a queue are the files ``<time>-<random>.<queue>.msg``."""

    def _put(self, queue: str, payload: Any, **_options: Any) -> None:
        folder = Path(self.data_folder_out)
        name = f"{time_ns():020d}-{uuid.uuid4().hex}.{queue}{_SUFFIX}"
        hidden = folder / f"{name}{_WRITING}"
        # Whoever removes the folder loses messages, which are announced again, and nothing else.
        folder.mkdir(parents=True, exist_ok=True)
        hidden.write_text(dumps(payload))
        hidden.rename(folder / name)

    def _get(self, queue: str) -> Any:
        folder = Path(self.data_folder_in)
        for name in self._names(queue):
            taken_file = folder / f"{name}{_TAKEN}"
            # Of several consumers the rename lets one have it.
            with suppress(FileNotFoundError):
                (folder / name).rename(taken_file)
                payload = taken_file.read_text()
                taken_file.unlink()
                return loads(payload)
        raise Empty

    def _size(self, queue: str) -> int:
        return len(self._names(queue))

    def _names(self, queue: str) -> list[str]:
        """Messages of a queue, oldest first; none while there is no folder."""
        try:
            names = os.listdir(self.data_folder_in)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith(f".{queue}{_SUFFIX}"))


class Transport(filesystem.Transport):
    """The transport that ``broker_transport`` names."""

    Channel = Channel


def leftovers(folder: Path) -> list[Path]:
    """Messages that somebody died of while writing or taking them, or is about to finish with."""
    return [path for path in folder.glob(f"*{_SUFFIX}.*") if path.suffix in (_WRITING, _TAKEN)]
