"""The cache of a worker between items: one opened model, the hash of its weights, the token ids of a few texts.

Each is known by its files' identity: path, size, time of change and inode. Where one of these differs it is read again, so what
is used is what lies there now, and what was hashed is what is used. A process runs one item at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.devices import layer_memory
from allocator.base.errors import UnreadableModel
from allocator.base.settings import Settings

if TYPE_CHECKING:
    from allocator.profiling.reference import References
    from solvers.checkpoints.reading import Inspected
    from solvers.model.surgery import OpenModel
    from solvers.texts.text import Text

_MOST_TEXTS = 4

Stamp = tuple[tuple[Any, ...], ...]

_models: dict[tuple[Any, ...], OpenModel] = {}
"""At most one."""
_references: list[References] = []
"""Those of that model, at most one: dense states that cuts of one layer after the other are measured from."""
_hashes: OrderedDict[Stamp, str] = OrderedDict()
_texts: OrderedDict[tuple[Any, ...], Text] = OrderedDict()


def _stamp(*paths: Path) -> Stamp:
    entries: list[tuple[Any, ...]] = []
    for path in paths:
        if path.is_dir():
            entries += _stamp(*sorted(file for file in path.rglob("*") if file.is_file()))
            continue
        status = path.stat()
        entries.append((str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(entries)


def weights_sha256(inspected: Inspected) -> str:
    """Hash of all tensors of a model folder, as ``solvers.checkpoints.reading.weights_sha256`` computes it."""
    from solvers.checkpoints import reading

    stamp = _stamp(*inspected.shards)
    if stamp not in _hashes:
        _hashes[stamp] = reading.weights_sha256(inspected)
        while len(_hashes) > _MOST_TEXTS:
            _hashes.popitem(last=False)
    return _hashes[stamp]


def model(folder: Path, weights: str, settings: Settings, *, measuring: bool = False) -> OpenModel:
    """The opened dense model of a folder on the settings' device, all its layers as they are stored.

    Args:
        weights: the hash that its weights must have.
        measuring: hold what ``references`` has; others have a better use for the memory.

    Raises:
        UnreadableModel: they have another.
        UnreadableModelError, UnsupportedModelError: the folder cannot be read.
    """
    from solvers.checkpoints import reading
    from solvers.folder import called
    from solvers.model.surgery import open_model

    inspected = reading.inspect(folder)
    if weights_sha256(inspected) != weights:
        raise UnreadableModel(
            f"{called(inspected.folder)}: the weights changed while the job was running; submit it again"
        )
    stamp = _stamp(*inspected.shards, folder / "config.json")
    key = (stamp, settings.layer_memory_bytes, settings.device)
    if not measuring or key not in _models:
        _references.clear()
    if key not in _models:
        _models.clear()  # before the next one is read: never two in memory
        _models[key] = open_model(
            reading.load(inspected, dtype=None),
            memory_bytes=layer_memory(settings),
            device=settings.device,
        )
    opened = _models[key]
    for index in range(len(opened.source)):  # an item that failed may have left its own in place
        opened.reset(index)
    return opened


def references() -> References:
    """The dense states of the model that was opened last, for whoever measures cuts of one layer after the other."""
    from allocator.profiling.reference import References

    if not _references:
        _references.append(References())
    return _references[0]


def text(path: Path, folder: Path, *, window: int, field: str, column: str | None = None) -> Text:
    """A text in windows of a model's token ids. Raises as ``solvers.texts.text.read_text``."""
    from solvers.texts.text import read_text
    from solvers.texts.tokenizer_file import SOURCES

    tokenizer = [folder / name for name in (*SOURCES, "tokenizer_config.json", "chat_template.jinja")]
    if not path.exists():
        return read_text(path, folder, window=window, what=field, column=column)
    key = (_stamp(path, *(file for file in tokenizer if file.is_file())), window, column)
    if key not in _texts:
        _texts[key] = read_text(path, folder, window=window, what=field, column=column)
        while len(_texts) > _MOST_TEXTS:
            _texts.popitem(last=False)
    return _texts[key]


def forget() -> None:
    """Let go of everything."""
    _models.clear()
    _references.clear()
    _hashes.clear()
    _texts.clear()
