"""Submitting scripted jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.jobs.submit import submit
from allocator.stages.request import Request
from allocator.store import Store

Submit = Callable[..., str]


@pytest.fixture
def submit_job(any_store: Store, any_settings: Settings, scripted: None) -> Submit:
    """Submit a job of kind ``profile`` with this script, on either database."""

    def submit_job(script: dict[str, Any] | None = None, kind: str = "profile", **options: Any) -> str:
        request = Request.stored(kind, {"model": "local:m", "script": script or {}})
        arguments = {"team": "default", "request": request, "created_by": "me", **options}
        return submit(any_store, any_settings, **arguments)

    return submit_job


@pytest.fixture
def executor(any_store: Store, any_settings: Settings) -> Executor:
    return Executor(any_store, any_settings)
