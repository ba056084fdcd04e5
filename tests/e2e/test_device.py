"""``--device`` and ``RANKALLOC_DEVICE``: a device that torch does not have is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.worker import run as run_worker
from allocator.store import Store
from tests.e2e.conftest import EXAMPLES
from tests.support.command import run
from tests.support.jobs import items, new_job


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """None for this process nor for those it starts, whatever machine the tests run on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def compress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, base: Path, *more: object
) -> tuple[int, str, str]:
    return run(
        capsys, monkeypatch, base / "home", "compress", *more, "--budget", "block_params=0.7", "--effort", "fast",
        "--out", base / "out",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "variable", "says"),
    [
        ("cuda", None, "device: 'cuda' was asked for (--device or RANKALLOC_DEVICE)"),
        (None, "cuda", "device: 'cuda' was asked for (--device or RANKALLOC_DEVICE)"),
        ("tpu", None, "--device: 'tpu' is not cpu or cuda"),
        (None, "tpu", "RANKALLOC_DEVICE: Input should be 'cpu' or 'cuda'"),
    ],
)
def test_a_device_that_is_not_there_exits_2_before_any_work(
    option: str | None,
    variable: str | None,
    says: str,
    no_cuda: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv("RANKALLOC_DEVICE", variable)
    more = () if option is None else ("--device", option)
    code, _, err = compress(capsys, monkeypatch, tmp_path, EXAMPLES / "pylm-llama", *more)
    assert code == 2
    assert says in err
    assert not list(tmp_path.iterdir())


def test_workers_do_not_start_and_their_jobs_say_why(no_cuda: None, settings: Settings, store: Store) -> None:
    away = settings.model_copy(update={"device": "cuda"})
    with pytest.raises(InvalidInput, match="RANKALLOC_DEVICE"):
        run_worker(away)
    request = {"model": f"path:{EXAMPLES / 'pylm-llama'}", "budgets": ["params=0.8"]}
    job_id = new_job(store, away, "plan", request)
    (item,) = items(store, job_id)
    Executor(store, away).execute(item.id)
    job = store.jobs.by_id(job_id)
    assert (job.state, job.error and job.error["errors"][0]["field"]) == ("failed", "device")
