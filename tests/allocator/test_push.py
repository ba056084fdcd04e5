"""``rankalloc push`` to a server on loopback that speaks the part of the hub's protocol which an upload needs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.allocator.test_card import card
from tests.support.listening import listening

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = bytes(range(256)) * 40
TOKEN = "hf_of_the_test"


class Hub(BaseHTTPRequestHandler):
    """Takes one repository; weights by the large-file way, the rest inside the commit."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    large: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[tuple[str, str, str | None]] = []  # noqa: RUF012
    made: list[dict[str, Any]] = []  # noqa: RUF012
    refuses = False

    def do_GET(self) -> None:
        self.note()
        self.answer({}, 404)

    def do_PUT(self) -> None:
        self.note()
        self.large[self.path.rpartition("/")[2].partition("?")[0]] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        self.note()
        data, path = self.body(), self.path.partition("?")[0]
        where = f"http://{self.headers['Host']}"
        if self.refuses:
            self.answer({"error": "your token may not write here"}, 403)
        elif path == "/api/repos/create":
            self.made.append(json.loads(data))
            self.answer({"url": f"{where}/owner/name", "id": "owner/name"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/models/owner/name/preupload/main":
            files = json.loads(data)["files"]
            modes = {True: "lfs", False: "regular"}
            rows = [
                {
                    "path": file["path"],
                    "uploadMode": modes[file["path"].endswith(".safetensors")],
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            self.answer({"files": rows})
        elif path == "/owner/name.git/info/lfs/objects/batch":
            objects = [
                {
                    "oid": each["oid"],
                    "size": each["size"],
                    "actions": {"upload": {"href": f"{where}/large/{each['oid']}"}},
                }
                for each in json.loads(data)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path == "/api/models/owner/name/commit/main":
            for line in data.decode().splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                elif row["key"] == "lfsFile":
                    self.files[row["value"]["path"]] = self.large[row["value"]["oid"]]
            self.answer({"commitUrl": f"{where}/owner/name/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self.answer({"error": f"unexpected {path}"}, 404)

    def note(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Authorization")))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, document: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/vnd.git-lfs+json" if "objects" in document else "application/json"
        )
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    for kept in (Hub.files, Hub.large, Hub.asked, Hub.made):
        kept.clear()
    with listening(Hub) as url:
        yield url


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    folder = tmp_path / "compact"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    for name in ("config.json", "plan.json", "tokenizer.json"):
        (folder / name).write_text(f'{{"of": "{name}"}}')
    (folder / "modeling_rankalloc.py").write_text("# the model class\n")
    (folder / "README.md").write_text(card(), encoding="utf-8")
    for name in ("LICENSE", "NOTICE", "tokenizer.model", "additional_chat_templates/tool_use.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"of {name}")
    (folder / "notes.txt").write_text("mine")
    (folder / ".secret.json.swp").write_text("mine")
    return folder


def push(
    home: Path, hub: str, *arguments: object, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "RANKALLOC_"))
    }
    environment = {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"RANKALLOC_HOME": str(home / "home")} | ({} if token is None else {"HF_TOKEN": token})
    command = [sys.executable, "-m", "api.cli", "push", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


SENT = {
    "README.md",
    "config.json",
    "model.safetensors",
    "modeling_rankalloc.py",
    "plan.json",
    "tokenizer.json",
    *("LICENSE", "NOTICE", "tokenizer.model", "additional_chat_templates/tool_use.jinja"),
}


def test_a_checkpoint_arrives_whole_and_nothing_else_does(tmp_path: Path, hub: str, compact: Path) -> None:
    done = push(tmp_path, hub, compact, "--repo", "owner/name", "--private", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["files"]) == set(Hub.files) == SENT
    assert Hub.files == {name: (compact / name).read_bytes() for name in SENT}
    assert Hub.large == {hashlib.sha256(WEIGHTS).hexdigest(): WEIGHTS}
    assert (Hub.made[0]["name"], Hub.made[0]["organization"]) == ("name", "owner")
    assert Hub.made[0].get("private") is True or Hub.made[0].get("visibility") == "private"
    spoken = {authorization for _, path, authorization in Hub.asked if path.startswith("/api/models")}
    assert spoken == {f"Bearer {TOKEN}"}
    assert "licence is unknown" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_a_dry_run_asks_nobody(tmp_path: Path, hub: str, compact: Path) -> None:
    done = push(tmp_path, hub, compact, "--repo", "owner/name", "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    assert "10 files" in done.stdout
    assert "would be sent to owner/name" in done.stdout
    assert "notes.txt" not in done.stdout
    assert Hub.asked == []


def test_mistakes_are_said_in_a_line_before_anything_is_sent(tmp_path: Path, hub: str, compact: Path) -> None:
    done = push(tmp_path, hub, compact, "--repo", "owner/name", token=None)
    assert (done.returncode, "set HF_TOKEN" in done.stderr) == (2, True)
    done = push(tmp_path, hub, compact, "--repo", "owner/name/more")
    assert (done.returncode, "OWNER/NAME" in done.stderr) == (2, True)
    (compact / "plan.json").unlink()
    done = push(tmp_path, hub, compact, "--repo", "owner/name")
    assert (done.returncode, "lacks plan.json" in done.stderr) == (2, True)
    assert Hub.asked == []


def test_a_refusal_is_said_in_a_line(
    tmp_path: Path, hub: str, compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "refuses", True)
    done = push(tmp_path, hub, compact, "--repo", "owner/name")
    assert (done.returncode, "the hub refused: 403 your token may not write here" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
