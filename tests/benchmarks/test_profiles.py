"""The benchmark of profiles on a bundled model with short windows, few points and plans: what it compares is what it says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.effort import BLOCK_WINDOWS, EFFORTS
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.profiling.needs import LayerNeeds
from benchmarks import profile_tables, profiles
from benchmarks.allocation import Case
from benchmarks.profiled import Home, Model
from benchmarks.random_plans import random_plans
from benchmarks.rows import Row, Rows
from tests.allocator.test_effort import make
from tests.support.damage import change_config, copied, first_layers
from tests.support.pages import fill
from tests.support.profiles import small_profile

GEOMETRY = small_profile().model.geometry
PLANS, LAYERS = 2, 2


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A bundled model's first layers, which are trained, in windows of 32 tokens."""
    folder = copied(tmp_path_factory.mktemp("model"))
    change_config(folder, max_position_embeddings=32)
    first_layers(folder, LAYERS)
    texts = [folder / f"{name}.txt" for name in ("calibration", "evaluation")]
    for text in texts:
        text.write_text(text.read_text(encoding="utf-8")[:4000], encoding="utf-8")
    return Case("pylm-llama", folder, *texts)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def rows(case: Case, work: Path) -> Rows:
    found = Rows(work / "rows.json")
    profiles.measure(found, case, work, points=1, plans=PLANS)
    return found


def of(rows: Rows, kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize("keep", ["0.9", "0.6", "0.3"])
def test_random_plans_spend_the_budget_and_differ(keep: str) -> None:
    costs, (budget,) = CostModel(GEOMETRY), parse_budgets([f"block_params={keep}"])
    plans = random_plans(costs, budget, 40, np.random.default_rng(1))
    assert len({plan.ranks for plan in plans}) == 40
    assert plans == random_plans(costs, budget, 40, np.random.default_rng(1))
    shares = []
    for plan in plans:
        for c in COMPONENTS:
            assert set(plan.ranks.of(c)) <= set(GEOMETRY.candidate_ranks(c))
            shares += [rank / GEOMETRY.full_rank(c) for rank in plan.ranks.of(c)]
        assert costs.total(budget.metric, plan.ranks) <= budget.limit(costs)
    used = [costs.total(budget.metric, plan.ranks) / budget.limit(costs) for plan in plans]
    assert np.median(used) > 0.95
    assert min(shares) < 0.2
    assert max(shares) == 1


def test_budgets_that_no_random_plan_can_spend_are_refused() -> None:
    costs, generator = CostModel(GEOMETRY), np.random.default_rng(1)
    for text in ("block_params=1.0", "block_params=0.0001"):
        with pytest.raises(ValueError, match="no random plan"):
            random_plans(costs, parse_budgets([text])[0], 1, generator)


def test_plans_are_predicted_by_the_curves_and_kept_within_the_budget(
    rows: Rows, case: Case, work: Path
) -> None:
    with closing(Home(case, work / case.name)) as home:
        profile = home.profile("standard")
    assert profile.passes == 0  # the benchmark's own
    curves = {(curve.layer, curve.component): curve for curve in profile.curves}
    plans = of(rows, "plan")
    assert [(row["keep"], row["plan"]) for row in plans] == [
        (keep, number) for keep in profiles.KEEPS for number in (profiles.PLANNED, *range(PLANS))
    ]
    for row in plans:
        ranks = {(n, c): rank for c in COMPONENTS for n, rank in enumerate(row["ranks"][c])}
        expected = sum(curve.loss_at(ranks[place]) for place, curve in curves.items())
        assert row["predicted_nats"] == pytest.approx(expected)
        assert row["block_params"] <= row["limit"]
        for name in ("one_shot", "delivered"):
            assert row[name]["nats"] == pytest.approx(np.mean(row[name]["halves"]), rel=0.2, abs=1e-4)
    assert len({str(row["ranks"]) for row in plans}) == len(plans)


def test_measured_ranks_have_no_error_and_unmeasured_ones_lie_between(
    rows: Rows, case: Case, work: Path
) -> None:
    with closing(Home(case, work / case.name)) as home:
        profile = home.profile("standard")
        layer = profile.layers[1]
        whole = [curve for curve in profile.curves if curve.layer == 1]
        exact = [
            (curve.component, point.rank)
            for curve in whole
            for point in curve.measured[1::4]
            if point.rank not in [repair.rank for repair in curve.repairs]
        ]
        found = profiles.point_rows(case.name, profile, layer, exact)
    assert len(found) == len(exact) > 3
    for row in found:
        assert row["measured_nats"] == pytest.approx(row["predicted_nats"], rel=1e-5, abs=1e-9)
    points = of(rows, "point")
    assert len(points) == len(COMPONENTS) * LAYERS
    taken = {(curve.layer, curve.component): [p.rank for p in curve.measured] for curve in profile.curves}
    for row in points:
        ranks = taken[row["layer"], row["component"]]
        assert row["rank"] not in ranks
        assert min(ranks) < row["rank"] < max(ranks)


def test_whole_models_lose_nothing_at_full_ranks_and_come_back(rows: Rows, case: Case, work: Path) -> None:
    with closing(Home(case, work / case.name)) as home:
        model = Model(home.profile("fast"), case)
    dense, small = Ranks.dense(model.geometry), Ranks(*((rank,) * LAYERS for rank in (8, 8, 20)))
    assert max(model.kl(model.one_shot(dense), 4)) < 1e-9
    assert min(model.kl(model.one_shot(small), 4)) > 0.1
    assert model.rise(model.delivered(small)) > 0.1
    assert model.rise(model.delivered(dense)) == pytest.approx(0, abs=1e-6)


def test_a_dearer_effort_takes_in_an_empty_store_what_the_replay_says(
    rows: Rows, case: Case, tmp_path: Path
) -> None:
    with closing(Home(case, tmp_path)) as home:
        profile = home.profile("standard")
        stored = profile.units()
    for layer, units in zip(profile.layers, stored, strict=True):
        assert profiles.replay(layer, units, {})[0] == units
    cost = {row["effort"]: row for row in of(rows, "effort")}
    assert tuple(cost) == profiles.MEASURED
    (windows,) = {len(unit["kl_nats"]) for units in stored for unit in units.values()}
    count = len(stored)
    by_hand = sum(
        windows * ((1 if index else count) + len(units) * (count - index))
        for index, units in enumerate(stored)
    )
    assert cost["standard"]["alone"] == by_hand
    assert cost["fast"]["extending"] == cost["fast"]["alone"] < cost["thorough"]["alone"]
    assert cost["standard"]["extending"] == 0, (
        "the text is one block, which fast has measured at the same ranks"
    )
    assert 0 < cost["thorough"]["extending"] < cost["thorough"]["alone"]
    for row in cost.values():
        least, most = row["forward_equivalents_per_layer"]
        assert least - 1e-3 <= row["actual_per_layer"] <= most + 1e-3
        assert row["second_job_passes"] == 0
        assert (row["forward_passes"] > 0) == (row["extending"] > 0)


def test_the_replay_counts_every_visit_to_a_block() -> None:
    layer = LayerNeeds(make(effort=EFFORTS["standard"]), GEOMETRY, 1, 48)
    first, *others = layer.cuts

    def unit(cut: Any, block: int) -> dict[str, Any]:
        spread = 0.5 if cut == first else 0.0
        return {"block": block, "kl_nats": [2 + 2 * spread * (n % 2) for n in range(BLOCK_WINDOWS)]}

    units = {layer.key(cut, block): unit(cut, block) for cut in layer.cuts for block in range(3)}
    found, total = profiles.replay(layer, units, {})
    # Only the first cut varies, by a standard error above the effort's share on one block: it alone goes on to a second one.
    assert len(found) == len(layer.cuts) + 1
    # The dense model goes on from layer 0 to this one, on each of the blocks.
    assert total == BLOCK_WINDOWS * ((1 + len(layer.cuts)) + (1 + 1))
    start = {layer.key(cut, 0): unit(cut, 0) for cut in others}
    assert profiles.replay(layer, units, start) == (found, BLOCK_WINDOWS * (1 + 1) * 2)


def test_a_finished_model_is_left_alone(rows: Rows, case: Case, work: Path, tmp_path: Path) -> None:
    again = Rows(work / "rows.json", resume=True)
    assert again == rows
    profiles.measure(again, case, tmp_path, points=1, plans=PLANS)
    assert again == rows
    assert not list(tmp_path.iterdir())


def test_every_table_has_the_model_and_fills_its_place(rows: Rows, tmp_path: Path) -> None:
    tables = profile_tables.tables(rows)
    counts = {name: table.count("\n| pylm-llama |") for name, table in tables.items()}
    assert counts == {
        "profiles-interpolation": len(COMPONENTS),
        "profiles-additivity": len(profiles.KEEPS),
        "profiles-effort": len(profiles.MEASURED),
        "profiles-outcome": len(profiles.KEEPS),
    }
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- bench:{name} -->\n<!-- /bench -->\n" for name in tables), encoding="utf-8")
    fill(page, tables)
    for table in tables.values():
        assert table in page.read_text(encoding="utf-8")
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1


def test_missed_targets_are_named() -> None:
    plans = [
        {"kind": "plan", "model": "m", "keep": "0.9", "plan": number, "predicted_nats": predicted}
        | {
            name: {"nats": nats, "halves": [nats, nats]}
            for name, nats in (("one_shot", one), ("delivered", two))
        }
        for number, predicted, one, two in (
            (profiles.PLANNED, 1.0, 1.0, 1.0),
            (0, 1.0, 1.0, 4.0),
            (1, 2.0, 2.0, 2.0),
            (2, 3.0, 4.0, 1.0),
        )
    ]
    table = profile_tables.additivity(plans)
    assert "| 1.000 | **-1.000** | 1.000 | 1.00 | 1.00 |" in table
    assert table.endswith("Below 0.95 at 10 or 20 %: m at 10% delivered (-1.000).")
    values = {"uniform": 3.0, "thorough": 1.0, "standard": 1.0, "fast": 2.0, "gradient": 1.0}
    outcomes = [
        {"kind": "outcome", "model": "m", "keep": "0.8", "allocation": name, "kl_nats": v, "rise_nats": 4 - v}
        for name, v in values.items()
    ]
    table = profile_tables.outcome(outcomes)
    assert "| 0.0% | **50.0%** | 0.0% |" in table
    assert "| no advantage | no advantage |" in table
    assert table.endswith("Gradient or fast lose more than 10%: m at 80% kept, fast, KL (50.0%).")
    point = {"kind": "point", "model": "m", "layer": 1, "component": "ov", "rank": 3}
    point |= {"predicted_nats": 0.1, "measured_nats": 0.2, "stderr_nats": 0.01}
    small = {**point, "rank": 4, "measured_nats": 1e-5}
    own = [{"kind": "own", "model": "m", "component": c, "pairs": []} for c in COMPONENTS]
    table = profile_tables.interpolation([point, small, *own])
    assert "| 1 | 50.0% | 50.0% | 0 | - | - |" in table
    assert table.endswith("- m: layer 1 ov at 3, predicted 0.1, measured 0.2 ± 0.01")
