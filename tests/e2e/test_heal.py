"""``compress --heal``: what is measured, what is delivered, and that an interrupted healing leaves the closed form whole.

Three layers of a trained example model with a context of 64 tokens and little text, so that a job takes seconds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.jobs.submit import cancel
from allocator.plan.effort import EFFORTS, FIT_WINDOWS, windows_scale
from allocator.stages.sources import PATH
from allocator.store import Store
from api.cli.main import main
from solvers.texts.text import read_text
from tests.composition.conftest import kl_nats
from tests.e2e.test_compress import run, sha256
from tests.support import damage
from tests.support.jobs import items, new_job, types

STEPS = 8
WINDOW = 64
THREADS = 1
"""Tensors are too small for more, and on a busy machine a second one waits for the first."""
REQUEST = {"solver": "a3", "budgets": ["block_params=0.5"], "effort": "fast", "refine": 0}
OPTIONS = [*("--solver", "a3"), *("--budget", "block_params=0.5"), *("--effort", "fast"), *("--refine", "0")]
"""The same for the command."""
WEIGHTS = "model.safetensors"
ROWS = ("evaluation_nll_nats", "measured_loss_nats")


@dataclass(frozen=True)
class Healed:
    """A finished job with healing, and the same job without: folders, reports, and what was shown."""

    settings: Settings
    model: Path
    out: Path
    report: dict[str, Any]
    shown: str
    plain_out: Path
    plain: dict[str, Any]

    @property
    def closed_form(self) -> Path:
        return self.settings.artifacts_dir / self.report["job"] / "closed-form"


def command(home: Path, *arguments: object) -> tuple[str, str]:
    """A successful run of the command in this process: standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("RANKALLOC_HOME", str(home))
        patch.setenv("RANKALLOC_THREADS", str(THREADS))
        patch.setenv("COLUMNS", "400")
        patch.setattr("sys.argv", ["rankalloc", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
    assert not caught.value.code, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> Healed:
    base = tmp_path_factory.mktemp("healed")
    model = damage.brief(base, window=WINDOW, calibration=12_000, layers=3)
    options = ("compress", model, *OPTIONS)
    shown, _ = command(base / "home", *options, "--heal", STEPS, "--out", base / "healed")
    command(base / "home", *options, "--out", base / "plain", "--json")
    report, plain = (
        json.loads((base / name / "report.json").read_text(encoding="utf-8")) for name in ("healed", "plain")
    )
    return Healed(
        Settings(home=base / "home", threads=THREADS),
        model,
        base / "healed",
        report,
        shown,
        base / "plain",
        plain,
    )


def test_healing_is_measured_beside_the_closed_form(healed: Healed) -> None:
    report, plain = healed.report, healed.plain
    row, plan, heal = report["healed"], report["plan"], report["heal"]
    for key in (*ROWS, "evaluation_rise_nats", "evaluation_perplexity"):
        assert row[key] < plan[key]
    assert row.keys() == plan.keys()
    text = read_text(healed.model / "calibration.txt", healed.model, window=WINDOW, what="calibration")
    fit = len(text.fit(windows_scale(WINDOW) * FIT_WINDOWS))
    assert (heal["steps"], heal["validation_windows"]) == (STEPS, fit // 8)
    assert heal["fit_windows"] + heal["validation_windows"] == fit
    assert 0 < heal["kept_step"] <= STEPS
    assert heal["last_kl_nats"] < heal["first_kl_nats"]
    assert 0 < heal["seconds"] <= report["timings_s"]["heal"]
    # The closed form is what it is without healing, in figures and in bytes.
    assert (plain["heal"], "healed" in plain, "heal" in plain["request"]) == (None, False, False)
    assert plain["plan"] == plan
    for name in ("dense", "uniform", "uniform_kind"):
        assert plain[name] == report[name]
    assert sha256(healed.closed_form / WEIGHTS) == sha256(healed.plain_out / "compact" / WEIGHTS)
    assert "heal" not in plain["timings_s"]


def test_what_is_delivered_is_the_healed_model(healed: Healed) -> None:
    names = sorted(path.name for path in healed.out.iterdir())
    assert names == ["compact", "padded", "plan.json", "report.html", "report.json"]
    load = AutoModelForCausalLM.from_pretrained
    dense, compact, padded, closed = (
        load(folder, dtype=torch.float32).eval()
        for folder in (healed.model, healed.out / "compact", healed.out / "padded", healed.closed_form)
    )
    text = read_text(healed.model / "calibration.txt", healed.model, window=WINDOW, what="calibration")
    measure = text.measure(windows_scale(WINDOW) * EFFORTS["fast"].most_windows)
    for model, name in ((compact, "healed"), (padded, "healed"), (closed, "plan")):
        expected = healed.report[name]["measured_loss_nats"]
        assert kl_nats(dense, model, measure) == pytest.approx(expected, rel=1e-3), name
    shapes = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
        for folder in (healed.out / "compact", healed.closed_form)
    ]
    assert shapes[0] == shapes[1]
    assert (
        sum(s.numel() for s, dtype in shapes[0].values() if dtype.is_floating_point)
        == healed.report["healed"]["params"]
    )


def test_few_layers_in_memory_heal_to_the_same_weights(
    healed: Healed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKALLOC_LAYER_MEMORY_BYTES", "1")
    options = (*OPTIONS, "--heal", STEPS, "--out", tmp_path / "out")
    command(tmp_path / "home", "compress", healed.model, *options)
    assert sha256(tmp_path / "out" / "compact" / WEIGHTS) == sha256(healed.out / "compact" / WEIGHTS)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    for name in ("dense", "uniform", "plan", "healed"):
        assert report[name] == healed.report[name]


def test_people_are_told_which_figures_are_healed(healed: Healed) -> None:
    card = (healed.out / "compact" / "README.md").read_text(encoding="utf-8")
    assert f"| {healed.report['healed']['evaluation_rise_nats']:.4f} |" in _line(card, "**this model**")
    assert f"| {healed.report['plan']['evaluation_rise_nats']:.4f} |" in _line(card, "before healing")
    assert f"healed: {STEPS} steps" in card
    plain_card = (healed.plain_out / "compact" / "README.md").read_text(encoding="utf-8")
    assert f"| {healed.plain['plan']['evaluation_rise_nats']:.4f} |" in _line(plain_card, "**this model**")
    assert "heal" not in plain_card
    page = (healed.out / "report.html").read_text(encoding="utf-8")
    assert '<tr class="healed">' in page
    assert f"after {STEPS} steps of" in page
    assert "healed" in healed.shown
    assert f"{healed.report['healed']['evaluation_perplexity']:.3f}" in _line(healed.shown, "perplexity")
    store = Store.open(healed.settings)
    try:
        rows = store.plans.measurements("default", healed.report["plan"]["digest"])
    finally:
        store.close()
    (measured,) = [row["measured"] for row in rows if row["job_id"] == healed.report["job"]]
    assert measured["measured_loss_nats"] == healed.report["plan"]["measured_loss_nats"]
    assert measured["healed"]["measured_loss_nats"] == healed.report["healed"]["measured_loss_nats"]


def _line(text: str, name: str) -> str:
    (found,) = [line for line in text.splitlines() if name in line and "|" in line.replace("│", "|")]
    return found


class Interruption(BaseException):
    """The process is being stopped."""


@dataclass
class Attempt:
    """A job that heals, up to but not including its heal stage; runs items with a hook that may raise."""

    store: Store
    settings: Settings
    job_id: str

    @property
    def folder(self) -> Path:
        return self.settings.artifacts_dir / self.job_id

    def execute(self, hook: Callable[[], None] | None = None) -> None:
        (item,) = items(self.store, self.job_id)
        executor = Executor(self.store, self.settings, on_update=hook)
        assert executor.execute(item.id, inline=True)

    def steps_done(self) -> int:
        (item,) = self.store.items.of_stage(self.job_id, "heal")
        return item.progress_done

    def hashes(self, *names: str) -> list[str]:
        return [sha256(self.folder / name / WEIGHTS) for name in names]


@pytest.fixture
def attempt(healed: Healed) -> Any:
    store = Store.open(healed.settings)
    settings = healed.settings.model_copy(update={"retry_backoff_s": 0.0})
    request = {"model": f"{PATH}{healed.model}", "heal": STEPS, **REQUEST}
    job_id = new_job(store, settings, "compress", request, inline=True)
    made = Attempt(store, settings, job_id)
    while store.jobs.by_id(job_id).stage != "heal":
        made.execute()
    yield made
    store.close()


@pytest.mark.parametrize("when", ["in the middle", "after the last file was replaced"])
def test_a_healing_that_is_interrupted_starts_from_the_closed_form_again(
    healed: Healed, attempt: Attempt, when: str
) -> None:
    """Healing half-healed weights would give others than the undisturbed job's."""
    before = attempt.hashes("closed-form", "compact", "padded")
    stopped: list[int] = []

    def stop() -> None:
        done = attempt.steps_done() > 0 if when == "in the middle" else "heal.done" in types_now()
        if done and not stopped:
            stopped.append(attempt.steps_done())
            raise Interruption

    def types_now() -> list[str]:
        return types(attempt.store, attempt.job_id)

    with pytest.raises(Interruption):
        attempt.execute(stop)
    after = attempt.hashes("closed-form", "compact", "padded")
    if when == "in the middle":
        assert 0 < stopped[0] < STEPS
        assert after == before
    else:
        assert after[0] == before[0]
        assert after[1] != before[1]
    assert not list(attempt.settings.tmp_dir.iterdir())
    attempt.execute()
    assert attempt.store.jobs.by_id(attempt.job_id).stage == "evaluate"
    assert attempt.hashes("compact", "padded") == [
        sha256(healed.out / name / WEIGHTS) for name in ("compact", "padded")
    ]
    recorded = {row["name"]: row["sha256"] for row in attempt.store.artifacts.list("default", attempt.job_id)}
    assert recorded[f"compact/{WEIGHTS}"] == attempt.hashes("compact")[0]


def interrupted(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the last check of a healing that stored each of them and was stopped on its way."""
    monkeypatch.setattr("allocator.stages.heal.SAVED_EVERY_S", 0.0)

    def stop() -> None:
        if attempt.steps_done() > 1:  # what is stored of progress may lag behind
            raise Interruption

    with pytest.raises(Interruption):
        attempt.execute(stop)
    (folder,) = attempt.settings.partial_dir.rglob("heal-*/*")
    return folder


def test_a_healing_goes_on_from_its_last_check(
    healed: Healed, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(attempt, monkeypatch)
    assert 1 < int(folder.name) < STEPS
    attempt.execute()
    (resumed,) = [
        each for each in attempt.store.events.list("default", attempt.job_id) if each.type == "heal.resumed"
    ]
    assert resumed.data == {"step": int(folder.name)}
    assert attempt.hashes("compact", "padded") == [
        sha256(healed.out / name / WEIGHTS) for name in ("compact", "padded")
    ]
    assert not list(attempt.settings.partial_dir.rglob("heal-*"))


def test_a_damaged_check_is_not_used(
    healed: Healed, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = interrupted(attempt, monkeypatch) / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f")
    attempt.execute()
    assert "heal.resumed" not in types(attempt.store, attempt.job_id)
    assert attempt.hashes("compact") == [sha256(healed.out / "compact" / WEIGHTS)]


def test_a_check_that_another_attempt_has_stored_is_no_fault(
    healed: Healed, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that was given up and lives on: its check appears after this attempt has looked for one."""
    interrupted(attempt, monkeypatch)
    monkeypatch.setattr("allocator.stages.heal.SavedChecks.get", lambda self: None)
    attempt.execute()
    assert attempt.store.jobs.by_id(attempt.job_id).stage == "evaluate"
    assert attempt.hashes("compact") == [sha256(healed.out / "compact" / WEIGHTS)]


def test_cancelling_while_healing_leaves_the_closed_form(attempt: Attempt) -> None:
    before = attempt.hashes("closed-form", "compact", "padded")
    assert before[0] == before[1]

    def stop() -> None:
        if attempt.steps_done() > 0 and attempt.store.jobs.by_id(attempt.job_id).state == "running":
            cancel(attempt.store, team="default", job_id=attempt.job_id, by="me")

    attempt.execute(stop)
    assert attempt.store.jobs.by_id(attempt.job_id).state == "cancelled"
    assert attempt.steps_done() > 0
    assert attempt.hashes("closed-form", "compact", "padded") == before


@pytest.mark.parametrize("steps", [-1, 100_001])
def test_an_impossible_number_of_steps_exits_2(
    steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(
        capsys, monkeypatch, tmp_path / "home", "compress", damage.EXAMPLES / "pylm-llama",
        "--budget", "params=0.8", "--heal", steps, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert f"--heal: '{steps}' is not a whole number from 0 to 100000" in err
    assert not list(tmp_path.iterdir())
