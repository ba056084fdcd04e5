"""Items that take long, interrupted at a layer: what is done is not done again, and the result is one run's to the last bit.

The trained example model with a context of 64 tokens and little text, so that a job takes seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import allocator.profiling.measure
import solvers.a3.moments
import solvers.a3.solved
from allocator.base.settings import Settings
from allocator.jobs.machine import context
from allocator.jobs.machine.executor import Executor
from allocator.jobs.submit import cancel
from allocator.plan import identity
from allocator.stages import refine as refining
from allocator.stages import solving
from allocator.stages.sources import PATH
from allocator.store import Item, Store
from tests.support import damage
from tests.support.jobs import items, new_job

WINDOW = 64
LAYERS = 6
REQUEST = {
    "solver": "a3+",
    "budgets": ["block_params=0.5"],
    "effort": "gradient",
    "refine": 16,
    "export": ["compact"],
}


class Interruption(BaseException):
    """The process is being stopped."""


@dataclass
class Counted:
    """A function that counts its calls and is stopped at one of them."""

    function: Callable[..., Any]
    stop_at: int | None = None
    calls: int = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.calls == self.stop_at:
            raise Interruption
        self.calls += 1
        return self.function(*args, **kwargs)


@dataclass
class Running:
    """A job of whose items one after the other is executed in this process."""

    store: Store
    settings: Settings
    job_id: str
    told: list[tuple[int, int, str]] = field(default_factory=list)
    """Progress of the item that runs, as users see it."""

    @property
    def stage(self) -> str | None:
        return self.store.jobs.by_id(self.job_id).stage

    @property
    def partial(self) -> Path:
        return self.settings.partial_dir / self.job_id

    def execute(self, key: str | None = None) -> None:
        (item,) = [each for each in items(self.store, self.job_id) if key in (None, each.key)]
        self.told.clear()

        def look() -> None:
            now = self.store.items.get(item.id)
            assert now is not None
            if now.progress_total:
                self.told.append((now.progress_done, now.progress_total, now.progress_unit))

        assert Executor(self.store, self.settings, on_update=look).execute(item.id, inline=True)

    def until(self, stage: str | None) -> Running:
        """Go on to the beginning of a stage; None: to the end, which must be a good one."""
        while self.stage != stage and self.store.jobs.by_id(self.job_id).finished_at is None:
            self.execute(self._waiting().key)
        job = self.store.jobs.by_id(self.job_id)
        assert job.state == ("succeeded" if stage is None else "running"), job.error
        return self

    def _waiting(self) -> Item:
        return next(item for item in items(self.store, self.job_id) if item.state == "queued")

    def interrupted(
        self, patch: pytest.MonkeyPatch, module: Any, name: str, at: int, key: str | None = None
    ) -> Counted:
        """Execute an item until the ``at``-th call of a function, which is not made."""
        counted = Counted(getattr(module, name), at)
        with patch.context() as inner:
            inner.setattr(module, name, counted)
            with pytest.raises(Interruption):
                self.execute(key)
        assert not list(self.settings.tmp_dir.iterdir())
        return counted

    def counting(self, patch: pytest.MonkeyPatch, module: Any, name: str, key: str | None = None) -> int:
        """Execute an item; how often the function was called."""
        counted = Counted(getattr(module, name))
        with patch.context() as inner:
            inner.setattr(module, name, counted)
            self.execute(key)
        return counted.calls

    def result(self, stage: str, name: str | None = None) -> dict[str, Any]:
        found = self.store.items.results(self.job_id)[stage]
        return next(each for each in found if name in (None, each.get("name")))

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.settings.artifacts_dir / self.job_id / "compact" / "model.safetensors")


@dataclass
class World:
    """A model, a store, and a job of it that nothing happened to."""

    model: Path
    settings: Settings
    store: Store
    calm: Running
    passes: int = 0
    """How often its refinement measured."""
    refining: list[tuple[int, int, str]] = field(default_factory=list)
    """The progress of its refinement."""

    def begin(self, *, settings: Settings | None = None, **request: Any) -> Running:
        own = self.settings if settings is None else settings
        store = self.store if settings is None else Store.open(own, create=True)
        asked = {"model": f"{PATH}{self.model}", **REQUEST, **request}
        job_id = new_job(store, own, "compress", asked, inline=True)
        return Running(store, own, job_id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("resumed")
    model = damage.brief(base, window=WINDOW)
    settings = Settings(home=base / "home", threads=1, retry_backoff_s=0.0)
    store = Store.open(settings, create=True)
    made = World(model, settings, store, None)  # type: ignore[arg-type]
    made.calm = made.begin().until("refine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "_PROGRESS_INTERVAL_S", 0.0)
        made.passes = made.calm.counting(patch, allocator.profiling.measure, "measure_layer")
    made.refining = list(made.calm.told)
    made.calm.until(None)
    yield made
    store.close()


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture
def applying(world: World) -> Running:
    """At the apply stage, with nothing solved: that the losses of its refined plan are known spares solving it before."""
    running = world.begin().until("apply")
    assert running.result("refine")["refined"], "or these tests look at less than they should"
    assert not running.partial.exists() or not list(running.partial.iterdir())
    return running


def test_refinement_counts_one_thing_from_its_search_to_the_plans_as_delivered(world: World) -> None:
    """Two plans are refitted behind the search: who counts either alone tells a wrong end."""
    done, totals, units = zip(*world.refining, strict=True)
    assert (len(set(totals)), set(units)) == (1, {"windows"})
    assert list(done) == sorted(done), "it never falls back"
    assert done[-1] == totals[0]
    assert len(set(done)) > 3 * LAYERS, "told of layer by layer: in the search, and of both plans"
    pieces = [later - earlier for earlier, later in pairwise(done)]
    assert max(pieces) < totals[0] / 4


@pytest.mark.parametrize("done", [1, LAYERS - 1])
def test_applying_goes_on_behind_the_last_finished_layer(
    world: World, applying: Running, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying.interrupted(monkeypatch, solving, "layer_solution", done)
    assert applying.counting(monkeypatch, solving, "layer_solution") == LAYERS - done
    assert same(applying.weights(), world.calm.weights())
    assert applying.result("apply") == world.calm.result("apply")
    assert applying.told[0] == (done, LAYERS, "layers"), "progress starts where the work does"
    assert not list(applying.partial.iterdir()), "no later stage needs these layers"


@pytest.mark.parametrize("harm", ["cut short", "flipped bit", "of another plan", "no record"])
def test_a_stored_layer_that_is_not_what_was_stored_is_solved_again(
    world: World, applying: Running, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying.interrupted(monkeypatch, solving, "layer_solution", 4)
    (folder,) = applying.partial.iterdir()
    weights = folder / "2" / "weights.safetensors"
    if harm == "cut short":
        weights.write_bytes(weights.read_bytes()[:-64])
    elif harm == "flipped bit":
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "no record":
        (folder / "2" / "facts.json").unlink()
    else:
        other = world.begin(budgets=["block_params=0.6"], refine=0).until("apply")
        other.interrupted(monkeypatch, solving, "layer_solution", 4)
        (theirs,) = other.partial.iterdir()
        shutil.rmtree(folder / "2")
        shutil.copytree(theirs / "2", folder / "2")
        cancel(world.store, team="default", job_id=other.job_id, by="me")
    assert applying.counting(monkeypatch, solving, "layer_solution") == LAYERS - 2
    assert same(applying.weights(), world.calm.weights())


def test_baselines_go_on_behind_their_last_finished_layer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With error feedback and without."""
    running = world.begin().until("evaluate")
    for name in ("uniform", "uniform_a3"):
        running.interrupted(monkeypatch, solving, "layer_solution", 3, name)
        (a_layer, total, unit), *_ = running.told
        assert running.counting(monkeypatch, solving, "layer_solution", name) == LAYERS - 3
        assert running.result("evaluate", name) == world.calm.result("evaluate", name)
        done, *others = running.told[0]
        assert (done, others) == (pytest.approx(3 * a_layer, abs=2), [total, unit]), (
            "it starts where the work does"
        )
        assert not list(running.partial.iterdir())
    cancel(world.store, team="default", job_id=running.job_id, by="me")


def test_refining_measures_nothing_twice_and_applying_solves_nothing_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In four attempts: stopped while it measures around the plan, then before and within the plan as it is delivered."""
    monkeypatch.setattr(identity, "PLAN_LOSS_VERSION", 99)  # so that no loss of the calm job is known
    measuring, counts = allocator.profiling.measure, []
    running = world.begin().until("refine")
    counts.append(running.interrupted(monkeypatch, measuring, "measure_layer", 3).calls)

    def passes_while(attempt: Callable[[], object]) -> int:
        counted = Counted(measuring.measure_layer)
        with monkeypatch.context() as patch:
            patch.setattr(measuring, "measure_layer", counted)
            attempt()
        return counted.calls

    # The second model as it is delivered; the first one's losses are stored by then.
    counts.append(passes_while(lambda: running.interrupted(monkeypatch, refining, "compressed_layers", 1)))
    counts.append(passes_while(lambda: running.interrupted(monkeypatch, solving, "layer_solution", 2)))
    solved = []
    counts.append(
        passes_while(lambda: solved.append(running.counting(monkeypatch, solving, "layer_solution")))
    )
    assert sum(counts) == world.passes > 4
    assert (counts[2:], solved) == ([0, 1], [LAYERS - 2]), "only the rest of the second model was left"
    assert running.result("refine") == world.calm.result("refine")
    assert len(list(running.partial.iterdir())) == 1, "the plan that was not chosen is let go"
    assert running.counting(monkeypatch, solving, "layer_solution") == 0, (
        "refining has solved what is applied"
    )
    assert same(running.weights(), world.calm.weights())
    cancel(world.store, team="default", job_id=running.job_id, by="me")


def test_when_its_job_has_ended_nothing_is_left(world: World) -> None:
    assert world.store.jobs.by_id(world.calm.job_id).state == "succeeded"
    assert not world.calm.partial.exists()


def test_calibrating_goes_on_behind_the_last_finished_layer(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted twice; then the last file that was stored is cut short."""
    running = world.begin(settings=world.settings.model_copy(update={"home": tmp_path / "home"}))
    running.until("calibrate")
    running.interrupted(monkeypatch, solvers.a3.solved, "solve", 2)
    batches = Counted(solvers.a3.moments.layer_moments)
    with monkeypatch.context() as patch:
        patch.setattr(solvers.a3.moments, "layer_moments", batches)
        running.interrupted(monkeypatch, solvers.a3.solved, "solve", 2)
    of_layer = batches.calls // 3
    (folder,) = running.partial.iterdir()
    assert folder.name == "calibrate-2"
    damaged = folder / "solved" / "layer-3.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert running.counting(monkeypatch, solvers.a3.moments, "layer_moments") == (LAYERS - 3) * of_layer
    done, total, _ = running.told[0]
    assert done * LAYERS == total * 3, "progress starts where the work does"
    for made in world.settings.moments_dir.iterdir():
        again = running.settings.moments_dir / made.name
        names = json.loads((again / "manifest.json").read_text())
        assert names.keys() == json.loads((made / "manifest.json").read_text()).keys()
        for name in names:
            assert same(load_file(again / name), load_file(made / name))
    assert not list(running.partial.iterdir())
    running.store.close()


def test_an_attempt_that_was_given_up_writes_into_no_others_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives on while its successor has taken over: what it has stored by then is used, what it stores later is refused."""
    running = world.begin(settings=world.settings.model_copy(update={"home": tmp_path / "home"}))
    running.until("calibrate")
    zombie = running.partial / "calibrate-1" / "moments"
    solve = solvers.a3.solved.solve

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        if not zombie.is_dir():
            return solve(*args, **kwargs)
        zombie.parent.rename(running.partial / "calibrate-2")  # as another attempt does when it begins
        return solve(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(solvers.a3.solved, "solve", overtaken)
        running.execute()
    kept = [path.name for path in (running.partial / "calibrate-2" / "moments").iterdir()]
    assert kept == ["layer-0.safetensors"]
    assert not list((running.partial / "calibrate-2" / "solved").iterdir())
    assert not zombie.exists()
    running.store.close()
