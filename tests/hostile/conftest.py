"""A client of the application on either database: what one refuses, the other must refuse too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support.profiles import small_profile


@pytest.fixture
def any_client(
    any_settings: Settings, any_store: Store, scripted: None, tiny_model: str
) -> Iterator[TestClient]:
    """With one model, one profile and one text."""
    any_store.profiles.put("default", small_profile())
    any_settings.text_roots[0].mkdir()
    (any_settings.text_roots[0] / "known.txt").write_text("text")
    app = create_app(any_settings, store=any_store)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
