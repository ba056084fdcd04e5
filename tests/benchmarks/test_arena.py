"""The arena on a tiny model, from its texts to rows, table and picture; signals against the peers' own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
import torch

from allocator.plan.model.ranks import Ranks
from benchmarks.allocation import Case
from benchmarks.arena import run as arena
from benchmarks.arena import signals as module
from benchmarks.arena.measured import EFFORT, Model
from benchmarks.arena.picture import picture
from benchmarks.arena.rules import PLAN, REFINED, RULES
from benchmarks.arena.signals import signals
from benchmarks.arena.table import behind, table
from benchmarks.peers import kv
from benchmarks.peers.blocks import READS, blocks
from benchmarks.peers.modegpt import block_influence
from benchmarks.peers.moments import collect
from benchmarks.profiled import Home
from benchmarks.rows import Rows
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.a3.steps import A3_PLUS
from solvers.model.surgery import open_model
from tests.support.models import save, tiny, token_ids


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("llama")
    save(tiny("llama").float(), folder)
    texts = []
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        path = folder / f"{name}.txt"
        path.write_text(" ".join(f"w{n}" for n in token_ids(1, 64 * 24, seed=seed)[0].tolist()))
        texts.append(path)
    return Case("tiny", folder, *texts)


@pytest.fixture(scope="module")
def rows(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    found = Rows(tmp_path_factory.mktemp("rows") / "rows.json")
    budgets = (["block_params=0.6"], ["block_params=0.8", "kv_bytes_per_token=0.75"])
    arena.measure(found, case, tmp_path_factory.mktemp("home"), budgets)
    return found


def test_a_row_for_every_rule_under_every_set_of_budgets(rows: Rows) -> None:
    names = [REFINED, *(rule.name for rule in RULES)]
    assert [row["rule"] for row in rows] == 2 * names
    for row in rows:
        assert row["kl_nats"] > 0
        assert row["kl_stderr_nats"] >= 0
    plan = next(row for row in rows if row["rule"] == PLAN)
    assert plan["predicted_nats"] <= min(row["predicted_nats"] for row in rows[:16]) * (1 + 1e-3)


def test_ours_is_not_behind_itself(rows: Rows) -> None:
    for row in rows:
        if row["rule"] == REFINED:
            assert row["kl_behind_nats"] == row["rise_behind_nats"] == 0
            assert row["kl_nats"] <= next(
                other["kl_nats"]
                for other in rows
                if other["rule"] == PLAN and other["budgets"] == row["budgets"]
            )


def test_what_is_there_is_not_measured_again(rows: Rows, case: Case, tmp_path: Path) -> None:
    before = list(rows)
    arena.measure(rows, case, tmp_path / "home", (["block_params=0.6"],))
    assert rows == before
    assert not (tmp_path / "home").exists()


def test_equal_ranks_lose_the_same_and_the_dense_model_is_back(case: Case, tmp_path: Path) -> None:
    with closing(Home(case, tmp_path)) as home:
        model = Model(home.profile(EFFORT), case)
        dense = Ranks.dense(model.costs.geometry)
        cut = Ranks(*(tuple(max(2, r // 2) for r in each) for each in (dense.qk, dense.ov, dense.mlp)))
        first = model.one_shot(cut, 3)
        assert model.one_shot(dense, 3) == pytest.approx(0, abs=1e-6)
        assert model.one_shot(cut, 3) == first > 0
        assert model.delivered(dense).rise == pytest.approx(0, abs=1e-6)
        assert model.one_shot(cut, 3) == first


def test_the_table_has_every_rule_and_says_where_ours_is_behind(rows: Rows) -> None:
    shown = table(rows)
    for rule in RULES:
        assert shown.count(f"| {rule.kind} | {rule.name} |") == 2
    found = behind(rows, "kl")
    assert f"measure windows: {len(found)} of 28." in shown
    worse = [{**rows[1], "kl_behind_nats": -0.5, "kl_behind_stderr_nats": 0.2, "model": "other"}]
    assert behind(worse, "kl") == worse
    assert behind([{**worse[0], "kl_behind_stderr_nats": 0.3}], "kl") == []
    assert "- other, `block_params=0.6`: uniform by 0.5000 ± 0.2000 nats/token" in table(worse)


def test_a_rule_that_cannot_leaves_its_cell_empty(rows: Rows) -> None:
    unable = [
        {name: row[name] for name in ("model", "budgets", "dense_nats", "rule", "kind")} | {"error": "cannot"}
        if row["rule"] == "STRS (ASVD)"
        else row
        for row in rows
    ]
    line = next(line for line in table(unable).splitlines() if "STRS" in line)
    assert line.endswith("| STRS (ASVD) | - | - | - |")


def test_the_picture_is_xml_with_every_rule_in_it(rows: Rows) -> None:
    again = [{**row, "budgets": ["block_params=0.8"]} for row in rows if len(row["budgets"]) == 1]
    text = picture([*rows, *again])
    root = fromstring(text)
    written = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(rule.name.strip("*") in written for rule in RULES)
    assert {"60 %", "80 %"} <= set(written)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_signals_are_the_peers_own(family: str) -> None:
    dense, windows = tiny(family).double(), token_ids(6, 20, seed=4)
    opened = open_model(tiny(family).double())
    solutions = [
        solve_layer(opened.source[n], found, A3_PLUS)
        for n, found in enumerate(moments.by_layer(opened, [windows]))
    ]
    found = signals(opened, windows, solutions)
    assert found.influence == pytest.approx(block_influence(dense, windows).tolist(), rel=1e-6)
    assert found.tokens == windows.numel()
    assert all(tail[-1] == 0 and tail[0] > 0 for tail in found.tails.values())
    literal: dict[Any, torch.Tensor] = kv._fisher(dense, windows)
    for layer in range(len(solutions)):
        fisher = module._fisher(opened, windows)
        assert fisher[layer, "qk"] > 0
        parts = {name: literal[layer, name].mean() for name in ("k", "v")}
        mine = {name: _only(opened, windows, layer, f"{name}_proj") for name in ("k", "v")}
        assert mine == pytest.approx({name: float(part) for name, part in parts.items()}, rel=1e-6)


def _only(opened: Any, windows: torch.Tensor, layer: int, name: str) -> float:
    """Fisher of one projection alone."""
    parts = dict(module._PARTS)
    try:
        module._PARTS.update({"qk": (name,), "ov": (), "mlp": ()})
        return module._fisher(opened, windows)[layer, "qk"]
    finally:
        module._PARTS.update(parts)


def test_outliers_are_wandas_products_above_their_mean() -> None:
    dense, windows = tiny("llama").double(), token_ids(6, 20, seed=4)
    opened = open_model(tiny("llama").double())
    _, energies = module._forward(opened, windows)
    found = module._outliers(opened, energies, 5.0)
    inputs = collect(dense, windows)
    for layer, block in enumerate(blocks(dense)):
        products = torch.cat(
            [
                (slot.weight.abs() * inputs[layer][READS[name]].second.diagonal().sqrt()).flatten()
                for name, slot in block.slots.items()
            ]
        )
        assert found[layer] == pytest.approx(float((products > 5 * products.mean()).double().mean()))
