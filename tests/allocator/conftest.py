"""The command line on a store filled by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.store import Store
from tests.support import command
from tests.support.profiles import measured_profile

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return partial(command.run, capsys, monkeypatch, settings.home, columns=80)


@pytest.fixture
def profile(store: Store) -> Profile:
    document = measured_profile()
    store.profiles.put("default", document)
    return document
