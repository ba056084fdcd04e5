"""Where a job's model and texts lie: the folder and files that its references name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from allocator.base.errors import UnreadableModel, UnusableText
from allocator.base.references import hub_model, local_model, text_file
from allocator.base.settings import Settings
from allocator.stages.request import Request

PATH = "path:"
"""Prefix of the one-shot commands' own references; REST refuses it, since it takes names only."""


def shown_reference(reference: str) -> str:
    """The reference as shared documents carry it: of a path only the folder's name, since plans travel and paths do not."""
    if not reference.startswith(PATH):
        return reference
    from solvers.folder import called

    return PATH + called(Path(reference.removeprefix(PATH)))


def model_folder(settings: Settings, reference: str) -> Path:
    """The folder of a model reference; a hub commit is downloaded into the data directory the first time.

    Raises:
        UnreadableModel: a hub commit that cannot be fetched.
    """
    if reference.startswith(PATH):  # of a person at this machine, since REST refuses it
        from solvers.folder import given

        return given(Path(reference.removeprefix(PATH)))
    hub = hub_model(reference)
    return local_model(settings, reference) if hub is None else _hub_folder(settings, *hub)


def _hub_folder(settings: Settings, name: str, commit: str) -> Path:
    """Weights, tokenizer and config of one commit as plain files (the hub's own cache holds links, which are refused)."""
    folder = settings.home / "hub" / f"{name.replace('/', '--')}@{commit}"
    if folder.is_dir():
        return folder
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, LocalEntryNotFoundError

    from solvers.checkpoints.companions import hub_patterns

    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    options: dict[str, Any] = {"revision": commit, "allow_patterns": hub_patterns(), "local_dir": partial}
    try:
        size = sum(file.file_size for file in snapshot_download(name, dry_run=True, **options))
        if size > settings.hub_limit_bytes:
            raise UnreadableModel(
                f"hf:{name}@{commit}: has {size:,} bytes; at most {settings.hub_limit_bytes:,} are downloaded"
                " (RANKALLOC_HUB_LIMIT_BYTES)"
            )
        snapshot_download(name, **options)
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        partial.rename(folder)
    except (DryRunError, HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, ValueError) as error:
        # A ValueError: the repository holds a name that would lead outside.
        reason = type(error).__name__
        raise UnreadableModel(
            f"hf:{name}@{commit}: cannot be downloaded ({reason}); is the commit right and public?"
        ) from None
    except OSError:
        if not folder.is_dir():  # another worker was faster if it is
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def text_path(settings: Settings, request: Request, field: str) -> Path:
    """The calibration or evaluation text of a request."""
    reference: str | None = getattr(request, field)
    if reference is not None and reference.startswith(PATH):
        return Path(reference.removeprefix(PATH))
    if reference is None and request.model.startswith(PATH):
        own = Path(request.model.removeprefix(PATH)) / f"{field}.txt"
        if not own.is_file():
            raise UnusableText(f"{field}: the model folder has no {field}.txt; name a text with --{field}")
        return own
    return text_file(settings, field, reference, request.model)
