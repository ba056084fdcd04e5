"""No password, key or token is in the repository: detect-secrets finds nothing that ``.secrets.baseline`` does not name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detect_secrets import SecretsCollection
from detect_secrets.settings import transient_settings

from tests.support.processes import ROOT

BASELINE: dict[str, Any] = json.loads((ROOT / ".secrets.baseline").read_text())
FOLDERS = ("allocator", "api", "benchmarks", "docs", "examples", "migrations", "solvers", "tests", ".ci")
BINARY = {".safetensors", ".svg", ".pyc", ".png", ".gz"}
MEND = "detect-secrets scan --baseline .secrets.baseline && git diff .secrets.baseline    # and look at what is new"


def files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name != ".secrets.baseline")
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*")


def found_in(root: Path, paths: Iterator[Path]) -> set[tuple[str, str, str]]:
    """(file, kind, hash) of whatever looks like a secret."""
    collection = SecretsCollection(root=str(root))
    config = {"plugins_used": BASELINE["plugins_used"], "filters_used": BASELINE["filters_used"]}
    with transient_settings(config):
        for path in paths:
            data = path.relative_to(root).is_relative_to("examples/models") or "results" in path.parts
            if path.is_file() and path.suffix not in BINARY and not data:
                collection.scan_file(str(path.relative_to(root)))
    return {(name, secret.type, secret.secret_hash) for name, secret in collection}


def test_nothing_new_looks_like_a_secret() -> None:
    known = {
        (name, each["type"], each["hashed_secret"])
        for name, secrets in BASELINE["results"].items()
        for each in secrets
    }
    new = sorted((name, kind) for name, kind, _ in found_in(ROOT, files()) - known)
    assert not new, f"{new}\n{MEND}"


def test_a_secret_would_be_found(tmp_path: Path) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLQ"
    (tmp_path / "settings.py").write_text(f'aws = "{key}"\nurl = "postgresql://me:{"hunter" + "22x"}@db/x"\n')
    kinds = {kind for _, kind, _ in found_in(tmp_path, tmp_path.rglob("*"))}
    assert kinds == {"AWS Access Key", "Basic Auth Credentials"}
