"""Profile files that were changed in a few places and sealed anew: the same profile, a usable one, or a refusal by name.

Also ``tests/allocator/test_portable.py``; here through the door that anybody may knock at.
"""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from allocator.base.digests import digest
from allocator.base.errors import InvalidInput
from allocator.plan.files import portable
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.planning import plan_from_profile
from tests.hostile.mutation import bytes_changed, changed, fuzz
from tests.support.processes import ROOT
from tests.support.profiles import measured_profile

FILE = export_profile(measured_profile())
DOCUMENT: dict[str, Any] = json.loads(gzip.decompress(FILE))
IMPORT = """
import resource, sys
from allocator.base.errors import InvalidInput
from allocator.plan.files.portable import import_profile
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    import_profile(sys.stdin.buffer.read())
except InvalidInput as error:
    # Not ru_maxrss: that of the process which started this one counts in it.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(peak.split()[1]) >> 10, error.detail[:200])
"""


def sealed(document: Any) -> bytes:
    """The document as a file with a right hash, where it has a canonical form."""
    try:
        content = {name: value for name, value in document.items() if name != "sha256"}
        return gzip.compress(rfc8785.dumps({**content, "sha256": digest(content)}))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return gzip.compress(json.dumps(document).encode())


@fuzz
@given(data=st.data())
def test_a_changed_profile(data: st.DataObject) -> None:
    try:
        found = import_profile(sealed(changed(data, DOCUMENT)))
    except InvalidInput as error:
        assert error.fields
        assert error.detail.isprintable()
        assert len(error.detail) < 2000
        return
    stored = found.to_store(trust=False, by="ada", at="now")
    assert import_profile(export_profile(stored)).sha256 == found.sha256
    assert plan_from_profile(stored, ["block_params=0.8"]).ranks


@fuzz
@given(data=st.data(), packed=st.booleans())
def test_changed_bytes(data: st.DataObject, packed: bool) -> None:
    content = bytes_changed(data, FILE if packed else gzip.decompress(FILE))
    try:
        found = import_profile(content if packed else gzip.compress(content))
    except InvalidInput as error:
        assert error.fields
    else:
        assert found.sha256 == DOCUMENT["sha256"]


BOMBS: dict[str, tuple[bytes, str]] = {
    "100 MiB of spaces": (gzip.compress(b" " * (100 << 20), compresslevel=1), "unpacked"),
    "a bomb in a bomb": (gzip.compress(gzip.compress(b" " * (20 << 20))), "no JSON"),
    "a million values": (gzip.compress(b'{"x": [' + b"[]," * 499_000 + b"[]]}"), "profile|schema|values"),
    "texts of 60 MiB": (gzip.compress(b'{"x": "' + b"x" * (60 << 20) + b'"}'), "at most"),
    "names of 60 MiB": (gzip.compress(b'{"' + b"x" * (60 << 20) + b'": 1}'), "at most"),
    "nested 900,000 deep": (gzip.compress(b"[" * 900_000 + b"]" * 900_000), "JSON"),
    "30,000 curves": (
        sealed(
            {
                **DOCUMENT,
                "profile": {**DOCUMENT["profile"], "curves": DOCUMENT["profile"]["curves"][:1] * 3000},
            }
        ),
        "curves",
    ),
    "geometry at every limit": (
        sealed(
            {
                **DOCUMENT,
                "profile": {
                    **DOCUMENT["profile"],
                    "model": {
                        **DOCUMENT["profile"]["model"],
                        "geometry": {
                            **DOCUMENT["profile"]["model"]["geometry"],
                            "layers": 10_000,
                            "hidden": 1 << 24,
                            "heads": 65_536,
                            "kv_heads": 65_536,
                            "head_dim": 65_536,
                            "intermediate": 1 << 24,
                            "total_params": 10**14,
                        },
                    },
                },
            }
        ),
        "profile",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_within_memory(name: str) -> None:
    data, says = BOMBS[name]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, input=data, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    mib, _, detail = done.stdout.decode().partition(" ")
    assert any(part in detail for part in says.split("|")), detail
    assert int(mib) < 700


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_the_door(any_client: TestClient, name: str) -> None:
    answer = any_client.post("/v1/profiles", content=BOMBS[name][0])
    assert answer.status_code in (413, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 5000
    assert any_client.get("/v1/profiles", params={"model": "x"}).json()["items"] == []


def test_an_upload_that_never_ends_is_cut_off(any_client: TestClient) -> None:
    sent, block = 0, b"\0" * (1 << 16)  # one block, or the test's client would hold all that it sends twice

    def endless() -> Any:
        nonlocal sent
        while sent < 64 << 20:
            sent += 1 << 16
            yield block

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = any_client.post("/v1/profiles", content=endless())
    assert answer.status_code == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 96 << 10


def test_what_is_refused_leaves_no_file(any_client: TestClient, any_settings: Any) -> None:
    before = sorted(Path(any_settings.home).rglob("*"))
    for data, _ in BOMBS.values():
        any_client.post("/v1/profiles", content=data)
    assert sorted(Path(any_settings.home).rglob("*")) == before
    assert len(FILE) <= portable.MAX_FILE_BYTES
