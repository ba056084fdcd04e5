"""A budget on time, from the table to the checkpoint: one command, refinement included."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from allocator.plan.ask.budgets import parse_budget
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.latency import read_table
from allocator.profiling.timing.models import geometry_without_weights
from solvers.checkpoints import reading
from tests.support.command import run
from tests.support.latency import table_document
from tests.support.models import save, tiny
from tests.support.plans import ranks_of

BUDGET = "latency=0.6@batch=1,context=64,phase=decode"


def test_a_checkpoint_keeps_its_limit_by_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    save(tiny("llama").float(), folder)
    words = random.Random(0)
    text = " ".join(f"w{words.randrange(61)}" for _ in range(6000))
    for name in ("calibration.txt", "evaluation.txt"):
        (folder / name).write_text(text, encoding="utf-8")
    _, geometry = geometry_without_weights(reading.inspect(folder), torch.float32)
    document = table_document(geometry)
    file = tmp_path / "table.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    options = ["--budget", BUDGET, "--effort", "fast", "--export", "compact", "--refine", "3", "--json"]

    def compress(out: Path, *more: object) -> tuple[int, str, str]:
        return run(capsys, monkeypatch, tmp_path / "home", "compress", folder, "--out", out, *options, *more)

    code, _, shown = compress(tmp_path / "without")
    assert (code, "rankalloc latency measured" in shown) == (2, True), shown
    assert not (tmp_path / "home").exists()
    code, printed, shown = compress(tmp_path / "out", "--latency-table", file)
    assert code == 0, shown
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    table = read_table(document)
    assert plan["latency_table"]["digest"] == table.digest
    used = CostModel(geometry, table).total(parse_budget(BUDGET).metric, ranks_of(plan["ranks"]))
    (told,) = json.loads(printed)["budgets"]
    assert told["used"] == used <= told["limit"]

    def checked(plan_file: Path, *more: object) -> tuple[int, str, str]:
        home = tmp_path / "home"
        return run(capsys, monkeypatch, home, "latency", folder, "--plan", plan_file, "--rounds", "3", *more)

    code, printed, shown = checked(tmp_path / "out" / "plan.json", "--json")
    assert code == 0, shown
    assert "measured elsewhere: name a CPU there" in shown
    (judged,) = json.loads(printed)["promises"]
    dense_ns = document["timings"][0]["dense_ns"]
    assert judged["budget"] == BUDGET
    assert (judged["limit"], judged["promised"]) == (told["limit"] / dense_ns, used / dense_ns)
    assert judged["quartiles"][0] <= judged["measured"] <= judged["quartiles"][1]
    assert judged["kept"] == (judged["measured"] <= judged["limit"])
    code, shown, err = checked(tmp_path / "out" / "plan.json", "--quiet")
    assert (code, err, "against the clock" in shown) == (0, "", True), err
    assert ("ask for latency=" in shown) == (" no " in shown)

    other = tmp_path / "other"
    options[1] = "block_params=0.9"
    assert compress(other)[0] == 0
    whole = tmp_path / "out" / "plan.json"
    for plan_file, more, said in (
        (other / "plan.json", (), "no budget on time (block_params=0.9)"),
        (whole, ("--out", file), "--out FILE for a new table"),
        (whole, ("--batch", "2"), "left out beside --plan"),
        *((damaged(plan, tmp_path, change), (), said) for change, said in DAMAGED),
    ):
        code, _, shown = checked(plan_file, *more)
        assert (code, said in " ".join(shown.split())) == (2, True), shown


DAMAGED = [
    (lambda plan: plan["latency_table"].pop("machine"), "machine"),
    (lambda plan: plan["latency_table"].update(dtype="load"), "dtype"),
    (lambda plan: plan["latency_table"].update(timings=[]), "timings"),
    (lambda plan: plan["latency_table"]["timings"][0].update(dense_ns=0), "dense_ns"),
    (lambda plan: plan["latency_table"].pop("digest"), "the plan file cannot be used"),
    (lambda plan: plan["budgets"][0].update(used="much"), "budgets[0].used: found 'much'"),
    (lambda plan: plan["latency_table"]["machine"].update(name="x[/red]y", threads="z"), "threads"),
]
"""A plan's digest covers its ranks and its table's digest, not what it repeats of the table."""


def damaged(plan: dict[str, Any], folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    changed = copy.deepcopy(plan)
    change(changed)
    file = folder / "damaged" / f"{len(list(folder.glob('damaged/*')))}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(changed), encoding="utf-8")
    return file
