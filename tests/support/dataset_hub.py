"""A hub of data sets on loopback: the part of the Hugging Face hub's protocol that reading one needs, ranges included."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.support.listening import listening

_INFO = re.compile(r"/api/datasets/([^/]+/[^/]+)/revision/(.+)")
_TREE = re.compile(r"/api/datasets/([^/]+/[^/]+)/tree/([0-9a-f]{40})")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)")


@dataclass
class Repository:
    """Files by revision: ``main``, or ``refs/convert/parquet`` as the hub's own conversion."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False

    def commit(self, revision: str) -> str:
        """That of a branch, which another content changes."""
        hashed = hashlib.sha1(revision.encode())
        for name, content in sorted(self.revisions[revision].items()):
            hashed.update(name.encode() + content)
        return hashed.hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Of a branch or commit."""
        return next(
            (files for name, files in self.revisions.items() if revision in (name, self.commit(name))),
            None,
        )


@dataclass
class Hub:
    """What the hub has, and what was asked of it."""

    url: str
    repositories: dict[str, Repository]
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0


@contextmanager
def dataset_hub(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """The hub, listening."""
    hub = Hub("", repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(self.path.split("?")[0])
            hub.asked.append(path)
            if match := _INFO.fullmatch(path):
                self.info(*match.groups())
            elif match := _TREE.fullmatch(path):
                self.tree(*match.groups())
            elif match := _FILE.fullmatch(path):
                self.file(*match.groups())
            else:
                self.refuse(404, "EntryNotFound")

        def info(self, name: str, revision: str) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self.refuse(401, "RepoNotFound")
            files = repository.files(revision)
            if files is None:
                return self.refuse(404, "RevisionNotFound")
            branch = next(b for b, each in repository.revisions.items() if each is files)
            document = {"id": name, "sha": repository.commit(branch)}
            if "expand" not in self.path:
                document["siblings"] = [{"rfilename": file} for file in files]  # type: ignore[assignment]
            return self.send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def tree(self, name: str, commit: str) -> None:
            files = hub.repositories[name].files(commit) or {}
            rows = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in files.items()
            ]
            self.send(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

        def file(self, name: str, commit: str, file: str) -> None:
            repository = hub.repositories[name]
            if repository.gated:
                return self.refuse(403, "GatedRepo")
            content = (repository.files(commit) or {}).get(file)
            if content is None:
                return self.refuse(404, "EntryNotFound")
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked is None:
                return self.send(200, content, headers)
            part = content[int(asked[1]) : int(asked[2]) + 1]
            hub.sent_bytes += len(part)
            return self.send(206, part, headers)

        def refuse(self, status: int, code: str) -> None:
            self.send(status, b"", {"X-Error-Code": code})

        def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with listening(Handler) as url:
        hub.url = url
        yield hub


def used(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Have this process ask the hub at ``url``, as HF_ENDPOINT does, with an empty cache of its own, as HF_HOME does."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # which may have been made with other proxies
