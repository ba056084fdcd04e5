"""``hf:`` references against a server on loopback that speaks the part of the hub's protocol which a download needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.listening import listening

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "examples" / "models" / "pylm-llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import sys
from pathlib import Path
from allocator.base.errors import UnreadableModel
from allocator.stages.sources import model_folder
from allocator.base.settings import Settings
settings = Settings(home=Path(sys.argv[1]))
settings.prepare_home()
try:
    folder = model_folder(settings, sys.argv[2])
except UnreadableModel as error:
    sys.exit(error.detail)
print(folder)
"""


NAMED = """
import sys
from api.cli.folders import folder_at
from allocator.base.errors import RankallocError
from solvers.checkpoints import reading
status = 0
for named in sys.argv[1:]:
    try:
        folder = folder_at(named)
    except RankallocError as error:
        print(error.detail, file=sys.stderr)
        status = 1
    else:
        print(folder)
        print(reading.inspect(folder).model_type)
sys.exit(status)
"""
REFUSED = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "name2": (404, "RevisionNotFound")}


class Hub(BaseHTTPRequestHandler):
    """One repository, ``owner/name``, at one commit; it also offers code and a pickle, which nobody may fetch."""

    files = {  # noqa: RUF012
        **{
            path.name: path.read_bytes()
            for path in SOURCE.iterdir()
            if path.suffix in (".json", ".safetensors")
        },
        "additional_chat_templates/tool_use.jinja": b"tools",
        "NOTICE": b"of the publisher",
        "LICENSE": b"a licence",
        "modeling_evil.py": b"raise SystemExit('never')",
        "pytorch_model.bin": b"pickle",
    }
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        prefix = f"/owner/name/resolve/{COMMIT}/"
        data, headers = b"", {}
        if path.startswith("/api/models/owner/") and path.split("/")[4] in REFUSED:
            status, code = REFUSED[path.split("/")[4]]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path in (f"/api/models/owner/name/revision/{COMMIT}", "/api/models/owner/name/revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            data = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
        elif path == f"/api/models/owner/name/tree/{COMMIT}":
            rows = self.files.items()
            listed = [
                {"type": "file", "path": name, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for name, d in rows
            ]
            data = json.dumps(listed).encode()
        elif path.startswith(prefix) and path.removeprefix(prefix) in self.files:
            data = self.files[path.removeprefix(prefix)]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked.clear()
    with listening(Hub) as url:
        yield url


def fetch(home: Path, hub: str, reference: str) -> subprocess.CompletedProcess[str]:
    return called(home, hub, SCRIPT, str(home), reference)


def called(
    home: Path, hub: str, script: str, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "RANKALLOC_"))
    }
    environment = {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment.update({"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **more})
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_commit_is_fetched_once_as_plain_files_without_code(tmp_path: Path, hub: str) -> None:
    reference = f"hf:owner/name@{COMMIT}"
    done = fetch(tmp_path, hub, reference)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "NOTICE"} <= names
    assert (folder / "additional_chat_templates" / "tool_use.jinja").read_text() == "tools"
    assert not [name for name in names if name.endswith((".py", ".bin")) or name == ".cache"]
    assert not any("evil" in path or path.endswith(".bin") for path in Hub.asked)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert (folder / "model.safetensors").read_bytes() == (SOURCE / "model.safetensors").read_bytes()
    Hub.asked.clear()
    assert fetch(tmp_path, hub, reference).returncode == 0
    assert Hub.asked == []


def test_an_unknown_commit_is_an_error_that_leaves_nothing(tmp_path: Path, hub: str) -> None:
    done = fetch(tmp_path, hub, f"hf:owner/name@{'f' * 40}")
    assert done.returncode == 1
    assert "cannot be downloaded" in done.stderr
    assert not list((tmp_path / "hub").glob("*"))


def test_a_name_on_the_command_line_is_a_commit_in_the_hubs_own_cache(tmp_path: Path, hub: str) -> None:
    names = ["owner/name", "hf:owner/name", f"hf:owner/name@{COMMIT}", "owner/name@main"]
    done = called(tmp_path, hub, NAMED, *names)
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / "hf" / "hub" / "models--owner--name" / "snapshots" / COMMIT
    assert done.stdout.splitlines() == [str(snapshot), "llama"] * len(names)
    assert done.stderr.count(f"hf:owner/name@{COMMIT}") >= len(names)
    assert not any("evil" in path or path.endswith(".bin") for path in Hub.asked)
    Hub.asked.clear()
    again = called(tmp_path, hub, NAMED, *names, HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout, Hub.asked) == (0, done.stdout, []), again.stderr


def test_a_cache_without_the_licence_does_where_the_hub_is_not_asked(tmp_path: Path, hub: str) -> None:
    assert called(tmp_path, hub, NAMED, "owner/name").returncode == 0
    snapshot = tmp_path / "hf" / "hub" / "models--owner--name" / "snapshots" / COMMIT
    (snapshot / "LICENSE").unlink()
    done = called(tmp_path, hub, NAMED, "owner/name", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, str(snapshot)), done.stderr
    (snapshot / "tokenizer.json").unlink()
    done = called(tmp_path, hub, NAMED, "owner/name", HF_HUB_OFFLINE="1")
    assert (done.returncode, "not whole in the hub's cache" in done.stderr) == (1, True), done.stderr


def test_why_a_name_cannot_be_had_is_said(tmp_path: Path, hub: str) -> None:
    refusals = {
        "owner/gated": "/owner/gated, then `hf auth login`, or set HF_TOKEN",
        "owner/missing": "owner/missing: no such folder here, and no such repository at http",
        "owner/name2@v9": "owner/name2@v9: the repository has no such branch, tag or commit",
    }
    done = called(tmp_path, hub, NAMED, *refusals)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False), done.stderr
    assert [says for says in refusals.values() if says not in done.stderr] == [], done.stderr


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "not whole in the hub's cache"),
        ({"RANKALLOC_HUB_LIMIT_BYTES": "1000"}, "at most 1,000 are downloaded"),
    ],
)
def test_why_a_download_does_not_begin_is_said(
    more: dict[str, str], says: str, tmp_path: Path, hub: str
) -> None:
    done = called(tmp_path, hub, NAMED, "owner/name", **more)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_here_goes_before_a_name_there(tmp_path: Path, hub: str) -> None:
    done = called(tmp_path, hub, NAMED, "examples/models")
    assert "config.json is missing" in done.stderr
    assert Hub.asked == []
