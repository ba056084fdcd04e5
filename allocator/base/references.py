"""Names of models and texts over REST: names and hashes, never paths or URLs.

    local:pylm-llama                                     a folder under a configured root
    hf:meta-llama/Llama-2-7b-hf@<40 hexadecimal digits>  a commit on the Hugging Face hub
    text:wikitext.txt                                    a file, or a folder of files, under a configured root

A path that a user may write would have to be checked, and such checks have been bypassed time and again; a
name that is looked up in a folder does not. Imports neither torch nor SQLAlchemy.
"""

from __future__ import annotations

import re
from pathlib import Path

from allocator.base.errors import InvalidInput, UnreadableModel, UnusableText
from allocator.base.settings import Settings

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_LOCAL = re.compile(rf"local:({_NAME})")
_HUB = re.compile(rf"hf:({_NAME}/{_NAME})@([0-9a-f]{{40}})")
_TEXT = re.compile(rf"text:({_NAME})")

NAMES = "1 to 96 letters, digits and . _ -, the first a letter or digit"
_SHOWN = 20
MODEL_FORMS = "local:<name> | hf:<owner>/<name>@<40 hexadecimal digits>"


def check_model(settings: Settings, reference: str) -> None:
    """Raises InvalidInput for anything but a model reference, UnreadableModel for a local one that is not
    there.
    """
    if _HUB.fullmatch(reference) is None:
        local_model(settings, reference)


def hub_model(reference: str) -> tuple[str, str] | None:
    """``(owner/name, commit)`` of a hub reference; None for any other text."""
    match = _HUB.fullmatch(reference)
    return (match[1], match[2]) if match else None


def local_model(settings: Settings, reference: str) -> Path:
    """The folder of ``local:<name>``, symbolic links resolved. Raises InvalidInput and UnreadableModel."""
    match = _LOCAL.fullmatch(reference)
    if match is None:
        raise InvalidInput.of("model", reference[:200], MODEL_FORMS)
    folder = _inside(settings.model_roots, match[1])
    if folder is None or not folder.is_dir():
        available = _one_of([f"local:{name}" for name in local_models(settings)])
        allowed = f"one of: {available}; or {MODEL_FORMS.split(' | ')[1]}"
        raise UnreadableModel.of("model", reference, allowed, f"there is no local model {match[1]!r}; name")
    return folder


def local_models(settings: Settings) -> list[str]:
    """Names of the folders with a model's configuration that `local_model` finds: what is listed is what is taken."""
    folders = ((name, _inside(settings.model_roots, name)) for name in _names(settings.model_roots))
    return [name for name, folder in folders if folder is not None and (folder / "config.json").is_file()]


def can_be_named(name: str) -> bool:
    """Whether a folder or file of this name can be referred to."""
    return re.fullmatch(_NAME, name) is not None


def text_file(settings: Settings, field: str, reference: str | None, model: str) -> Path:
    """The file or folder of ``text:<name>``, or without a reference the model folder's own ``<field>.txt``.

    ``field`` is ``calibration`` or ``evaluation``. Raises InvalidInput and UnusableText.
    """
    if reference is None:
        own = None if hub_model(model) else _inside([local_model(settings, model)], f"{field}.txt")
        if own is None or not own.is_file():
            allowed = f"text:<name>, or {field}.txt in the model's folder"
            clause = f"the model has no {field} text of its own; give"
            raise UnusableText.of(field, "nothing", allowed, clause)
        return own
    match = _TEXT.fullmatch(reference)
    if match is None:
        raise InvalidInput.of(field, reference[:200], "text:<name>")
    file = _inside(settings.text_roots, match[1])
    if file is None or not (file.is_file() or _is_closed(file)):
        roots = settings.text_roots
        files = ((name, _inside(roots, name)) for name in _names(roots))
        names = [name for name, path in files if path is not None and (path.is_file() or _is_closed(path))]
        available = _one_of([f"text:{name}" for name in names])
        clause = f"there is no text {match[1]!r}; name"
        raise UnusableText.of(field, reference, f"one of: {available}", clause)
    return file


def _inside(roots: list[Path], name: str) -> Path | None:
    """``name`` in the first root that has it, unless a symbolic link leads out of that root."""
    for root in roots:
        try:
            path = (root / name).resolve()
        except RuntimeError:  # a link that leads to itself
            return None
        if path.exists():
            return path if path.is_relative_to(root.resolve()) else None
    return None


def _is_closed(folder: Path) -> bool:
    """Whether this is a folder out of which no symbolic link leads."""
    home = folder.resolve()
    try:
        return folder.is_dir() and all(path.resolve().is_relative_to(home) for path in folder.rglob("*"))
    except RuntimeError:  # a link that leads to itself
        return False


def _names(roots: list[Path]) -> list[str]:
    """The names under the roots that a reference can have."""
    names = {path.name for root in roots if root.is_dir() for path in root.iterdir()}
    return sorted(filter(can_be_named, names))


def _one_of(references: list[str]) -> str:
    """A list of references for an error: no more than somebody reads."""
    more = len(references) - _SHOWN
    shown = ", ".join(references[:_SHOWN]) or "none"
    return f"{shown}, and {more} more" if more > 0 else shown
