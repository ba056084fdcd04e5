"""Names of data sets on a Hugging Face hub as texts, and the files that hold their splits. No network.

    hf:owner/name                        its only configuration or the one called default; train to calibrate, test to evaluate
    hf:owner/name:config:split           such as hf:Salesforce/wikitext:wikitext-2-raw-v1:validation
    hf:owner/name:folder/file.jsonl.gz   one file of it
    hf:owner/name@revision:...           another commit, branch or tag than the newest commit
    wikitext2  c4  pile                  those that the field calibrates on

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from allocator.base.errors import UnusableText

HUB_PREFIX = "hf:"
FORMS = "hf:owner/name[@revision][:config[:split]], or hf:owner/name[@revision]:file"
SHORT = {
    "wikitext2": {
        "calibration": "hf:Salesforce/wikitext:wikitext-2-raw-v1:train",
        "evaluation": "hf:Salesforce/wikitext:wikitext-2-raw-v1:test",
    },
    # One file of each, as GPTQ, SparseGPT and their successors take them.
    "c4": {
        "calibration": "hf:allenai/c4:en/c4-train.00000-of-01024.json.gz",
        "evaluation": "hf:allenai/c4:en/c4-validation.00000-of-00008.json.gz",
    },
    # What of the Pile is still handed out has no second split: evaluating on it after calibrating on it is marked as seen.
    "pile": dict.fromkeys(("calibration", "evaluation"), "hf:NeelNanda/pile-10k:default:train"),
}
"""Short name -> what it stands for in each place."""
USUAL_SPLITS = {"calibration": ("train",), "evaluation": ("test", "validation")}
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"hf:({_PART}/{_PART})(?:@(\w[\w./-]{{0,199}}))?(?::([^:/][^:]*))?(?::([^:/]+))?")
_FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".txt")
"""What one file of a data set may be."""
_WORD = r"\w[\w.+ -]{0,95}"
_CONVERTED = re.compile(rf"({_WORD})/(?:partial-)?({_WORD})/\d{{4,}}\.parquet")
"""How the hub's own conversion lays out every data set; ``partial-`` of one of which it converts a beginning."""
_OWN = (".jsonl", ".ndjson", ".parquet")
_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
_WORDS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_SHOWN = 20

Splits = dict[str, dict[str, list[str]]]
"""Configuration -> split -> its files."""


@dataclass(frozen=True)
class DatasetName:
    """The parts of a data set's name."""

    repository: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return HUB_PREFIX + ":".join(
            part for part in (self.repository + at, self.file or self.config, self.split) if part
        )

    def at(self, commit: str, config: str | None = None, split: str | None = None) -> DatasetName:
        """The same at one commit, and in one place of it where that was not said."""
        return replace(self, revision=commit, config=config or self.config, split=split or self.split)


def parse_dataset_name(text: str, field: str) -> DatasetName:
    """The parts of a name that begins with ``hf:``, or of a short one.

    Args:
        field: ``calibration`` or ``evaluation``: where it is to be used.

    Raises:
        UnusableText: it is no such name.
    """
    match = _NAME.fullmatch(SHORT[text][field] if text in SHORT else text)
    if match is None or any(".." in (part or "") for part in match.groups()):
        raise UnusableText.of(field, text, f"{FORMS}; or {', '.join(SHORT)}", at=f"--{field}")
    repository, revision, place, split = match.groups()
    if place and split is None and ("/" in place or _kind(PurePosixPath(place)) in _FILES):
        return DatasetName(repository, revision, file=place)
    return DatasetName(repository, revision, place, split)


def splits_of(files: Iterable[str]) -> Splits:
    """The splits that a repository's files belong to: as the hub's conversion lays them out, else by words in names."""
    files = sorted(files)
    splits: Splits = {}
    for file in files:
        if match := _CONVERTED.fullmatch(file):
            splits.setdefault(match[1], {}).setdefault(match[2], []).append(file)
    if splits:
        return splits
    for file in files:
        path = PurePosixPath(file)
        if _kind(path) not in _OWN or not all(re.fullmatch(_WORD, part) for part in path.parts):
            continue
        words = [_split_in(part) for part in path.parts]
        split = next((word for word in reversed(words) if word), "train")
        folder = path.parts[0] if len(path.parts) > 1 and words[0] is None else "data"
        config = "default" if folder == "data" else folder
        splits.setdefault(config, {}).setdefault(split, []).append(file)
    return splits


def _kind(path: PurePosixPath) -> str:
    from solvers.texts.records import inner_suffix

    return inner_suffix(path)  # type: ignore[arg-type]  # which opens nothing


def _split_in(part: str) -> str | None:
    """The split that a file's or folder's name says, as in ``train-00000-of-00001.parquet``."""
    return next((_WORDS[word] for word in re.findall(r"[a-z]+", part.lower()) if word in _WORDS), None)


def config_and_split(splits_by_config: Splits, name: DatasetName, field: str) -> tuple[str, str]:
    """The configuration and split that is meant.

    Raises:
        UnusableText: there is none such, or several; with what there is.
    """
    if not splits_by_config:
        raise UnusableText(
            f"{name}: the data set has no files of records ({', '.join(_OWN)}) in that revision, nor has the hub converted it;"
            f" name one of its files, as {name}:folder/file.json"
        )
    usual = ("default",) if len(splits_by_config) > 1 else tuple(splits_by_config)
    config = _selected(name.config, usual, list(splits_by_config), "configuration", name)
    splits = splits_by_config[config]
    usual = USUAL_SPLITS[field] if len(splits) > 1 else tuple(splits)
    return config, _selected(name.split, usual, list(splits), "split", name.at(name.revision or "", config))


def _selected(
    requested: str | None, usual: Iterable[str], available: list[str], part: str, dataset: DatasetName
) -> str:
    """The part that is requested, else the first usual one that is available."""
    selected = requested
    if selected is None:
        selected = next((name for name in usual if name in available), None)
    if selected in available:
        return selected
    more = f", and {len(available) - _SHOWN} more" if len(available) > _SHOWN else ""
    shown = ", ".join(available[:_SHOWN]) + more
    why = f"has no {part} {selected!r}" if selected else f"has several {part}s; say which"
    raise UnusableText(f"{dataset}: the data set {why}: {shown}")
