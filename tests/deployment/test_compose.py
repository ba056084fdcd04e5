"""What the compose file must keep: nothing published but the API on loopback, no default passwords, pinned
images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_only_the_api_is_published_and_on_loopback_only() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["api"]["ports"])
    assert COMPOSE["networks"]["stores"]["internal"]
    for store in ("postgres", "redis"):
        assert SERVICES[store]["networks"] == ["stores"]


def test_images_are_pinned_and_every_lasting_service_is_watched() -> None:
    for name, service in SERVICES.items():
        assert "build" in service or re.search(r":\d+\.\d+", service["image"]), f"{name} is not pinned"
        assert "healthcheck" in service or service["restart"] == "no", f"{name} is not watched"
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert all(re.search(r":\d+\.\d+\.\d+", base) or base == "base" for base in bases)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_secrets_come_as_files(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    for variable in environment:
        if re.search("PASSWORD|URL|TOKEN|SECRET", variable):
            assert variable.endswith("_FILE"), f"{name}: {variable} holds a secret in the open"
    for secret in SERVICES[name].get("secrets", []):
        assert COMPOSE["secrets"][secret]["file"].startswith("./secrets/")
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "secrets" in (ROOT / ".dockerignore").read_text().splitlines()


def test_nothing_starts_before_the_schema_is_current() -> None:
    for name in ("api", "worker", "worker-gpu"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
