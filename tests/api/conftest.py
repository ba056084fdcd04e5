"""A client of the application, without a server in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from allocator.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support.teams import bearer, token

Login = Callable[..., TestClient]


@pytest.fixture
def client(settings: Settings, store: Store, scripted: None) -> Iterator[TestClient]:
    """As team ``default``. Server errors are answers here, as they are for users."""
    app = create_app(settings, store=store)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as result:
        yield result


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
