"""Fixtures of the benchmark tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.benchmarks.peer_models import FAMILIES, model_of


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # these matrices are so small that threads only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {family: model_of(family) for family in FAMILIES}
