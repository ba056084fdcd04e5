"""Texts out of data sets on a Hugging Face hub: as much as a job uses, kept in the data directory as a file like any other."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from allocator.base.errors import UnusableText
from allocator.base.settings import Settings
from allocator.stages.hub_files import HubFile, Unreachable, cached_listing, listing
from allocator.stages.hub_names import DatasetName, config_and_split, parse_dataset_name, splits_of
from allocator.stages.inputs import solver_errors

READ_BYTES = {"calibration": 12 << 20, "evaluation": 2 << 20}
"""How much text is read where nobody asks for more: three million tokens or so to choose windows from, and many more than the
65,536 that figures are taken over. WikiText-2 is read whole.
"""
_BYTES_PER_TOKEN = 8
"""More than tokenizers of today have, also on code."""
_SOLVED_SHARE = 6 / 8
"""Of a calibration text's windows, for moments; curves are measured on the others (``solvers.texts.text``)."""
_SOURCE = "source.txt"
_NAME_LENGTH = 200


@dataclass(frozen=True)
class HubText:
    """A file of records, and where they are from: ``hf:owner/name@commit:config:split``."""

    file: Path
    source: str


def needed_bytes(field: str, samples: int | None, length: int | None) -> int:
    """The bytes of text to read for ``samples`` windows of ``length`` tokens: no more than are read of a file."""
    from solvers.texts.documents import READ_LIMIT_BYTES

    if field != "calibration":
        return READ_BYTES[field]
    requested = int((samples or 0) * (length or 0) * _BYTES_PER_TOKEN / _SOLVED_SHARE)
    return min(max(READ_BYTES[field], requested), READ_LIMIT_BYTES)


def hub_text(
    text: str, field: str, settings: Settings, *, limit_bytes: int, column: str | None = None
) -> HubText:
    """The text of a data set that ``text`` names, read from the hub unless it was before at the same commit.

    Where the hub is not asked (HF_HUB_OFFLINE) or does not answer it is what was read last, or what the hub's own cache has.

    Args:
        field: ``calibration`` or ``evaluation``.
        limit_bytes: after so much text no further document is read.
        column: where records have their text (``solvers.texts.documents``).

    Raises:
        UnusableText: no such data set, configuration, split, file or column, or none for this login; it cannot be reached and
            nothing of it is here.
    """
    name = parse_dataset_name(text, field)
    key = hashlib.sha256(json.dumps([str(name), field, limit_bytes, column]).encode()).hexdigest()[:16]
    room = settings.home / "hub" / "texts" / f"{name.repository.replace('/', '--')}-{key}"
    try:
        current = listing(name)
    except Unreachable as error:
        if (cached := _newest(room)) is not None:
            return cached
        local = cached_listing(name)
        if local is None:
            raise UnusableText(
                f"{name}: not read before with these options, nothing of it in the hub's cache, and {error}; online"
                f" `hf download {name.repository} --repo-type dataset` fetches it"
            ) from None
        current = local
    folder = room / current.commit
    if (stored := _stored_text(folder)) is not None:
        os.utime(folder)
        return stored
    if name.file:
        place, files = name.at(current.commit), [name.file]
    else:
        splits = splits_of(current.files)
        config, split = config_and_split(splits, name, field)
        place, files = name.at(current.commit, config, split), splits[config][split]
    _store_text(folder, place, files, field, column, limit_bytes, settings)
    return HubText(_file_in(folder), str(place))


def _newest(room: Path) -> HubText | None:
    """The text that was last read under this name."""
    folders = sorted(room.glob("[0-9a-f]*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return next((cached for folder in folders if (cached := _stored_text(folder)) is not None), None)


def _stored_text(folder: Path) -> HubText | None:
    if not (folder / _SOURCE).is_file():
        return None
    return HubText(_file_in(folder), (folder / _SOURCE).read_text(encoding="utf-8"))


def _file_in(folder: Path) -> Path:
    return next(folder.glob("*.jsonl"))


def _store_text(
    folder: Path,
    place: DatasetName,
    files: list[str],
    field: str,
    column: str | None,
    limit_bytes: int,
    settings: Settings,
) -> None:
    """Read documents until there is enough text; the folder appears when they are all there."""
    from solvers.texts.documents import size_of, values_of

    settings.prepare_home()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    # As the text is called in messages.
    parts = [place.repository.split("/")[1], *(part for part in (place.config, place.split) if part)]
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))[:_NAME_LENGTH]
    try:
        size = 0
        with (partial / f"{title}.jsonl").open("w", encoding="utf-8") as records, solver_errors():
            for file in files:
                for value in values_of(HubFile(place, file), field, column):
                    name = column or ("text" if isinstance(value, str) else "messages")
                    records.write(json.dumps({name: value}) + "\n")
                    size += size_of(value)
                    if size >= limit_bytes:
                        break
                if size >= limit_bytes:
                    break
        if not size:
            raise UnusableText(f"{place}: its {column or 'text'} is empty in every record")
        (partial / _SOURCE).write_text(str(place), encoding="utf-8")
        partial.rename(folder)
    except OSError:
        if _stored_text(folder) is None:  # another command was faster if it is there
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
