"""A client of the application, without a server in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from allocator.settings import Settings
from allocator.store import Store
from api.app import create_app


@pytest.fixture
def client(settings: Settings, store: Store, scripted: None) -> Iterator[TestClient]:
    """As team ``default``. Server errors are answers here, as they are for users."""
    app = create_app(settings, store=store)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as result:
        yield result
