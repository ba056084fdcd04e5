"""A client of the application, without a server in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.stages.pipeline import StageContext
from allocator.store import Store
from api.app import create_app
from tests.support.live import served, working
from tests.support.profiles import measured_profile
from tests.support.stages import STAGES
from tests.support.teams import bearer, token

Login = Callable[..., TestClient]


@pytest.fixture
def client(settings: Settings, store: Store, scripted: None) -> Iterator[TestClient]:
    """As team ``default``. Server errors are answers here, as they are for users."""
    app = create_app(settings, store=store)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as result:
        yield result


@pytest.fixture
def example_server(
    settings: Settings, store: Store, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a service that works, with a model ``pylm-llama`` that has been profiled."""
    folder = settings.model_roots[0] / "pylm-llama"
    folder.mkdir(parents=True)
    for name in ("config.json", "calibration.txt", "evaluation.txt"):
        (folder / name).write_text("{}")
    profile = measured_profile(reference="local:pylm-llama")
    store.profiles.put("default", profile)
    ran = STAGES["report"].run

    def report(context: StageContext) -> dict[str, Any]:
        """As the real stage, as far as files and links go."""
        context.link(profile_key=profile.key)
        (context.temporary_dir() / "report.json").write_text("{}")
        context.publish_artifact(context.temporary_dir() / "report.json", "report.json")
        return ran(context)

    monkeypatch.setattr(STAGES["report"], "run", report)
    with served(settings, store) as address, working(settings, store):
        yield address


@pytest.fixture
def login(settings: Settings, store: Store, scripted: None) -> Iterator[Login]:
    """Clients of one application, each with a new token: ``login("red", "ada", "submit")``."""
    app = create_app(settings, store=store)
    clients = []

    def client(team: str, name: str = "ada", scope: str = "submit") -> TestClient:
        headers = bearer(token(store, team, name, scope))
        found = TestClient(app, "http://127.0.0.1", raise_server_exceptions=False, headers=headers)
        clients.append(found)
        return found

    yield client
    for each in clients:
        each.close()
