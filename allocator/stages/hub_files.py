"""Files of data sets on a Hugging Face hub, of which only what is looked at is fetched, or that lie in the hub's own cache.

Nothing of a repository is run: files of records are read by ``solvers.texts.records``, whatever else it holds is not asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from allocator.base.errors import UnusableText
from allocator.stages.hub_names import DatasetName

CONVERTED = "refs/convert/parquet"
"""The branch that the hub itself writes: every data set as Parquet, in folders of configurations and splits."""
_BUFFER_BYTES = 1 << 20


class Unreachable(Exception):
    """The hub is not to be asked, or does not answer; the message says which."""


@dataclass(frozen=True)
class Listing:
    """A commit of a data set and the names of its files; none where only one file is wanted."""

    commit: str
    files: list[str]


def listing(name: DatasetName) -> Listing:
    """The newest commit, or that of the revision that is named, as the hub has it.

    Without a revision it is the hub's own conversion where there is one, since that says which files belong to which split.

    Raises:
        UnusableText: there is no such repository or revision, or none for this login.
        Unreachable: nobody answers.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    api = HfApi()
    with _refusals(name):
        revision = name.revision or "main"
        if name.file:
            return Listing(_commit(api.dataset_info(name.repository, revision=revision, expand=["sha"])), [])
        if name.revision is None:
            with suppress(RevisionNotFoundError):
                converted = _listed(api.dataset_info(name.repository, revision=CONVERTED))
                # Where there is none, its conversion has failed.
                if any(file.endswith(".parquet") for file in converted.files):
                    return converted
        return _listed(api.dataset_info(name.repository, revision=revision))


def _listed(info: Any) -> Listing:
    return Listing(_commit(info), [file.rfilename for file in info.siblings or ()])


def _commit(info: Any) -> str:
    commit = str(info.sha)
    if len(commit) != 40 or not set(commit) <= set("0123456789abcdef"):  # it becomes a folder's name
        raise ValueError("the hub names no commit")
    return commit


def cached_listing(name: DatasetName) -> Listing | None:
    """The files of the data set in the hub's own cache on this machine; None where there are none."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name.repository, repo_type="dataset")
    for revision in (name.revision,) if name.revision else (CONVERTED, "main"):
        ref = home / "refs" / revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
        folder = home / "snapshots" / commit
        if folder.is_dir():
            files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            if not name.file or name.file in files:
                return Listing(commit, files)
    return None


@dataclass(frozen=True)
class HubFile:
    """One file at one commit, as ``solvers.texts.records`` reads files."""

    place: DatasetName
    file: str

    @property
    def name(self) -> str:
        return f"{self.place.repository}/{self.file}"

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.file).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePosixPath(self.file).suffixes

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Its content, from the hub's own cache where it lies there.

        Raises:
            UnusableText: there is no such file, or not for this login, or the hub stops to answer.
        """
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache

        commit = self.place.revision
        location: dict[str, Any] = {
            "repo_id": self.place.repository,
            "filename": self.file,
            "repo_type": "dataset",
        }
        cached = try_to_load_from_cache(revision=commit, **location)
        if isinstance(cached, str):
            return open(cached, mode)
        try:
            with _refusals(self.place, self.file):
                url = hf_hub_url(revision=commit, **location)
                size = get_hf_file_metadata(url, token=get_token()).size
                if size is None:
                    raise ValueError("no size")
        except Unreachable as error:
            raise UnusableText(f"{self.place}: {self.file} cannot be read; {error}") from None
        return io.BufferedReader(_Ranges(self, url, size), _BUFFER_BYTES)


class _Ranges(io.RawIOBase):
    """A file of the hub, of which every read fetches what it asks for."""

    def __init__(self, file: HubFile, url: str, size: int) -> None:
        self._file, self._url, self._size, self._at = file, url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        content = self._fetched(self._at, end)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _fetched(self, start: int, end: int) -> bytes:
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        place = self._file.place
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        try:
            with _refusals(place, self._file.file):
                response = http_backoff("GET", self._url, headers=headers)
                hf_raise_for_status(response)
                if response.status_code != 206 and start:
                    raise ValueError("ranges are not answered")
                return bytes(response.content[: end - start])
        except Unreachable as error:
            raise UnusableText(f"{place}: {self._file.file} cannot be read to its end; {error}") from None


@contextmanager
def _refusals(name: DatasetName, file: str = "") -> Iterator[None]:
    """Turns refusals of the hub into a line for people.

    Raises:
        UnusableText: the hub answers that it does not give it.
        Unreachable: it does not answer, or something that is no hub does.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, hub = name.repository, constants.ENDPOINT
    try:
        yield
    except UnusableText:
        raise
    except GatedRepoError:
        raise UnusableText(
            f"{name}: its publisher gives it to those who agree: do so at {hub}/datasets/{repository}, then `hf auth login`,"
            " or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UnusableText(
            f"{name}: no data set {repository} at {hub}, or none that this login may see (`hf auth login`, or HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise UnusableText(
            f"{name}: the data set has no branch, tag or commit {name.revision or 'main'}"
        ) from None
    except EntryNotFoundError:
        raise UnusableText(
            f"{name}: the data set has no file {file}; its files are at {hub}/datasets/{repository}/tree/{name.revision}"
        ) from None
    except OfflineModeIsEnabled:
        raise Unreachable("HF_HUB_OFFLINE is set") from None
    except HfHubHTTPError as error:
        raise Unreachable(f"{hub} answers {error.response.status_code}") from None
    except Exception as error:  # of a proxy, a broken connection, a hub that answers anything
        raise Unreachable(f"{hub} does not answer ({type(error).__name__})") from None
