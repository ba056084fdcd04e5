"""``owner/name`` and ``hf:owner/name@revision`` as the model of a command: a commit in the hub's own cache on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from rich.markup import escape

from allocator.base.errors import UnreadableModel
from api.cli.console import settings, stderr

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"(hf:)?({_PART}/{_PART})(?:@({_PART}(?:/{_PART})*))?")
_NEEDED = ["config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]


def hub_folder(named: str) -> Path | None:
    """The folder of a commit, downloaded if it is not there; None where ``named`` is no such name, or a folder here.

    Without a revision it is the newest commit of the main branch that the hub has, or where the hub is not asked
    (HF_HUB_OFFLINE) the newest that was seen. Which one it is goes to standard error.

    Raises:
        UnreadableModel: no such repository, none for this login, none in the cache, or larger than may be downloaded.
    """
    match = _NAME.fullmatch(named)
    if match is None or (match[1] is None and Path(named).exists()):
        return None
    name, revision = match[2], match[3]
    folder = _fetched(name, revision)
    stderr.print(f"  [dim]{escape(f'hf:{name}@{folder.name}')}[/dim]", soft_wrap=True)
    return folder


def _fetched(name: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from allocator.stages.folders import hub_patterns

    label = name if revision is None else f"{name}@{revision}"
    try:
        _check_size(name, revision, hub_patterns())
        return Path(snapshot_download(name, revision=revision, allow_patterns=hub_patterns()))
    except GatedRepoError:
        raise UnreadableModel(
            f"{label}: its publisher gives it to those who agree: do so at {constants.ENDPOINT}/{name}, then"
            " `hf auth login`, or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UnreadableModel(
            f"{name}: no such folder here, and no such repository at {constants.ENDPOINT}, or none that this login may see"
            " (`hf auth login`, or HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise UnreadableModel(f"{label}: the repository has no such branch, tag or commit") from None
    except LocalEntryNotFoundError:
        if (folder := _cached(name, revision)) is not None:
            return folder
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
        raise UnreadableModel(
            f"{label}: no such folder here, not whole in the hub's cache ({constants.HF_HUB_CACHE}), and {why};"
            f" online `hf download {name}` fetches it"
        ) from None
    except UnreadableModel:
        raise
    except Exception as error:  # of a proxy, a broken connection, a hub that answers anything
        raise UnreadableModel(f"{label}: cannot be downloaded ({type(error).__name__})") from None


def _cached(name: str, revision: str | None) -> Path | None:
    """The commit in the cache if it has what a model needs: whoever fetched it may have left its licence."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_NEEDED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _check_size(name: str, revision: str | None, patterns: list[str]) -> None:
    """Raises UnreadableModel where more would be downloaded than RANKALLOC_HUB_LIMIT_BYTES."""
    from contextlib import suppress

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    limit = settings().hub_limit_bytes
    with suppress(DryRunError):  # the hub is not asked; what follows says why if it matters
        files = snapshot_download(name, revision=revision, allow_patterns=patterns, dry_run=True)
        if (size := sum(file.file_size or 0 for file in files if file.will_download)) > limit:
            raise UnreadableModel(
                f"{name}: has {size:,} bytes; at most {limit:,} are downloaded (RANKALLOC_HUB_LIMIT_BYTES)"
            )
