"""``make audit`` tells apart: nothing known, something known, nobody to ask. The real pip-audit, a service on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT

BAD = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "summary": "made up",
    "details": "made up",
    "aliases": [],
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "made-up"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
            "versions": ["1.0"],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    """As much of OSV's protocol as pip-audit asks for: vulnerable is ``made-up`` alone."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bad = asked["package"]["name"] == "made-up"
        body = json.dumps({"vulns": [BAD]} if bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(tmp_path: Path, package: str, url: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / f"{package}-1.0.dist-info").mkdir(exist_ok=True)
    (tmp_path / f"{package}-1.0.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    )
    options: list[Any] = ["--path", tmp_path, "--vulnerability-service", "osv", "--osv-url", url]
    script = ROOT / ".ci" / "audit.py"
    return subprocess.run(
        [sys.executable, script, *options, "--timeout", "5"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("package", "status"), [("harmless", 0), ("made-up", 1)])
def test_what_is_known_is_told(tmp_path: Path, service: str, package: str, status: int) -> None:
    done = audit(tmp_path, package, service)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"1 packages, {status} known" in done.stdout
    assert ("GHSA-aaaa-bbbb-cccc, fixed in 2.0" in done.stdout) == bool(status)


def test_a_service_that_does_not_answer_has_a_status_of_its_own(tmp_path: Path) -> None:
    done = audit(tmp_path, "harmless", "http://127.0.0.1:9/v1/query")
    assert done.returncode == 75, done.stdout + done.stderr
    assert "cannot be reached" in done.stdout
