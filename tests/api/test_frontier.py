"""Frontiers over REST and from the command line, from one stored profile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.plan.frontier import frontier_csv, frontier_of
from allocator.report.figures.frontier import frontier
from allocator.store import Store
from tests.support.processes import environment
from tests.support.profiles import small_profile

METRIC = "kv_bytes_per_token"


def test_rest_gives_json_csv_and_a_picture(client: TestClient, store: Store) -> None:
    profile = small_profile()
    store.profiles.put("default", profile)
    url, params = f"/v1/profiles/{profile.key}/frontier", {"metric": METRIC, "points": 5}
    expected = frontier_of(profile, [METRIC], points=5, budgets=["params=0.9"])
    found = client.get(url, params={**params, "budget": "params=0.9"}).json()
    assert found == expected.document
    text = client.get(url, params={**params, "budget": "params=0.9", "format": "csv"})
    assert text.headers["content-type"].startswith("text/csv")
    assert text.text == frontier_csv(expected)
    picture = client.get(url, params={**params, "budget": "params=0.9", "format": "svg"})
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.text == frontier(expected).svg()
    surface = client.get(url, params={"metric": [METRIC, "params"], "points": 3}).json()
    assert len(surface["points"]) == 9


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"points": 201}, 422),
        ({"points": 1}, 422),
        ({"metric": "speed"}, 422),
        ({"metric": [METRIC, "params", "memory@context=9"]}, 422),
        ({"budget": "params=0.01"}, 422),
        ({"metric": [METRIC, "params"], "points": 30}, 422),
    ],
)
def test_rest_refuses(client: TestClient, store: Store, change: dict, status: int) -> None:
    store.profiles.put("default", small_profile())
    answer = client.get("/v1/profiles/small/frontier", params={"metric": METRIC, "points": 5, **change})
    assert answer.status_code == status
    assert client.get("/v1/profiles/none/frontier", params={"metric": METRIC}).status_code == 404


def test_the_command_prints_all_points_and_writes_the_picture(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    store.profiles.put("default", small_profile("smallest"))

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api.cli", "frontier", *options],
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )

    options = ("smalle", "--metric", METRIC, "--budget", "params=0.9", "--points", "5")
    expected = frontier_of(small_profile("smallest"), [METRIC], budgets=["params=0.9"], points=5)
    picture = tmp_path / "picture.svg"
    printed = run(*options, "--json", "--out", str(picture))
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout) == expected.document
    assert picture.read_text() == frontier(expected).svg()
    assert run(*options, "--csv").stdout == frontier_csv(expected)
    missing = run("nothing", "--metric", METRIC)
    assert missing.returncode == 2
    assert "There is no profile whose key begins with 'nothing'" in missing.stderr
