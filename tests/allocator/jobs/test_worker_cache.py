"""What a worker keeps between items is what lies on the disk now, whole, and one model at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from allocator.base.errors import JobFailed, UnreadableModel
from allocator.base.settings import Settings
from allocator.stages import worker_cache
from allocator.stages.inputs import open_source
from allocator.stages.pipeline import JobView
from allocator.stages.request import Request
from solvers.checkpoints import reading
from tests.support.damage import EXAMPLES


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    worker_cache.forget()
    yield
    worker_cache.forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "pylm-llama", tmp_path / "model"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def hash_of(folder: Path) -> str:
    return reading.weights_sha256(reading.inspect(folder))


def test_a_model_is_opened_once_and_comes_back_whole(folder: Path, settings: Settings) -> None:
    weights = hash_of(folder)
    opened = worker_cache.model(folder, weights, settings)
    ids = torch.arange(20)[None]
    before = opened.finish(*opened.start(ids), 0)
    opened.put(2, opened.source[0])
    again = worker_cache.model(folder, weights, settings)
    assert again is opened
    assert torch.equal(again.finish(*again.start(ids), 0), before), "what an item left in place is gone"


def test_weights_that_changed_are_not_taken_for_those_that_were_hashed(
    folder: Path, settings: Settings
) -> None:
    weights = hash_of(folder)
    worker_cache.model(folder, weights, settings)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, file, metadata={"format": "pt"})
    os.utime(file, ns=(1, 1))
    with pytest.raises(UnreadableModel, match="changed while the job was running"):
        worker_cache.model(folder, weights, settings)
    assert worker_cache.weights_sha256(reading.inspect(folder)) == hash_of(folder)


def test_another_model_takes_the_place_of_the_first(folder: Path, settings: Settings) -> None:
    first = worker_cache.model(folder, hash_of(folder), settings)
    other = EXAMPLES / "pylm-gpt2"
    worker_cache.model(other, hash_of(other), settings)
    assert len(worker_cache._models) == 1
    assert worker_cache.model(folder, hash_of(folder), settings) is not first


def test_a_text_is_read_again_when_it_or_the_window_changes(folder: Path) -> None:
    path = folder / "calibration.txt"
    first = worker_cache.text(path, folder, window=64, field="calibration")
    assert worker_cache.text(path, folder, window=64, field="calibration") is first
    assert worker_cache.text(path, folder, window=32, field="calibration").windows.shape[1] == 32
    path.write_text(path.read_text(encoding="utf-8") + "\nanother line\n", encoding="utf-8")
    assert worker_cache.text(path, folder, window=64, field="calibration").sha256 != first.sha256


def test_a_job_that_another_solver_began_ends_with_that_reason(settings: Settings) -> None:
    """What this version computes must not be stored under the other's keys."""
    facts = {"solver": "a3+", "identity": {"solution": {"solver": "a3+/1"}}}
    job = JobView("j", "default", Request(kind="profile", model="local:pylm-llama"), {"prepare": [facts]})
    with pytest.raises(JobFailed, match=r"begun by a version with solver a3\+/1.*submit it again"):
        open_source(SimpleNamespace(job=job, settings=settings))  # type: ignore[arg-type]


def test_dense_states_stay_while_cuts_are_measured_and_go_with_the_model(
    folder: Path, settings: Settings
) -> None:
    weights = hash_of(folder)
    worker_cache.model(folder, weights, settings, measuring=True)
    held = worker_cache.references()
    worker_cache.model(folder, weights, settings, measuring=True)
    assert worker_cache.references() is held
    worker_cache.model(folder, weights, settings)  # a stage that does not measure has the memory to itself
    assert worker_cache.references() is not held
    held = worker_cache.references()
    other = EXAMPLES / "pylm-gpt2"
    worker_cache.model(other, hash_of(other), settings, measuring=True)
    assert worker_cache.references() is not held
    held = worker_cache.references()
    worker_cache.forget()
    assert worker_cache.references() is not held
