"""The ablation and the comparison on tiny models: complete rows, equal ranks and counts, nothing lost at the full rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.ranks import Ranks
from benchmarks import ablation
from benchmarks.ablation import GROUPS, KEEPS, SINGLES, VARIANTS, SolvedModel, rows_of, uniform_ranks
from benchmarks.allocation import Case
from benchmarks.peers import run as peers
from benchmarks.rows import Rows, geometric
from benchmarks.sentences import by_sentence
from benchmarks.subjects import Subject, subject
from tests.support.models import save, tiny, token_ids
from tests.support.reports import stored_report


def small(family: str, folder: Path, **options: Any) -> Subject:
    """A tiny model with random texts of the words that its tokenizer knows."""
    save(tiny(family, **options).float(), folder)
    texts = []
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        path = folder / f"{name}.txt"
        ids = token_ids(1, 64 * 24, seed=seed)[0].tolist()
        path.write_text(" ".join(f"w{n}" for n in ids), encoding="utf-8")
        texts.append(path)
    return subject(Case(family, folder, *texts))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return small("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def rows(llama: Subject) -> list[dict[str, Any]]:
    return rows_of(llama)


def test_fit_and_evaluation_windows_are_as_long_as_the_context(llama: Subject) -> None:
    assert llama.fit.shape == (18, 64)  # the measure shards are nobody's
    assert llama.evaluation.shape == (24, 64)
    assert llama.rise(llama.opened.model) == pytest.approx(0, abs=1e-6)


def test_every_variant_at_every_ratio(rows: list[dict[str, Any]]) -> None:
    assert [(row["keep"], row["variant"]) for row in rows] == [(k, v) for k in KEEPS for v in VARIANTS]
    assert all(-1 < row["rise_nats"] < 20 for row in rows)
    assert len({row["rise_nats"] for row in rows if row["keep"] == "0.6" and not row["same_as"]}) > 8


def test_variants_differ_in_values_only(llama: Subject, rows: list[dict[str, Any]]) -> None:
    dense = CostModel(llama.geometry).total(Metric("block_params"), Ranks.dense(llama.geometry))
    for keep in KEEPS:
        there = [row for row in rows if row["keep"] == keep]
        assert len({tuple(row["ranks"]) for row in there}) == 1
        assert {row["stored"] for row in there} == {there[0]["block_params"]}
        assert 0.5 * float(keep) * dense < there[0]["block_params"] <= float(keep) * dense


def test_nothing_is_lost_at_the_full_rank(llama: Subject) -> None:
    for row in SolvedModel(llama).rows("1", Ranks.dense(llama.geometry)):
        assert row["rise_nats"] == pytest.approx(0, abs=1e-6)
        assert row["same_as"] == (None if row["variant"] == "a3" else "a3")


def test_the_dense_layers_are_back_afterwards(llama: Subject, rows: list[dict[str, Any]]) -> None:
    assert rows
    assert llama.rise(llama.opened.model) == pytest.approx(0, abs=1e-6)


def test_steps_that_change_nothing_are_named(tmp_path: Path) -> None:
    gpt2 = small("gpt2", tmp_path)
    found = SolvedModel(gpt2).rows("0.6", uniform_ranks(gpt2, "0.6"))
    same = {row["variant"]: row["same_as"] for row in found}
    assert same["qk_gains"] == "a3"  # no rotary pairs
    assert same["ov_heads"] == "a3"  # no groups
    assert same["qk_metric"] == "+qk"
    assert same["a3+"] is None


def made(ratios: dict[str, float], **same: str) -> list[dict[str, Any]]:
    """Rows of two models whose a3 loses 1 and 2 nats."""
    return [
        {
            "model": model,
            "variant": variant,
            "keep": "0.8",
            "dense_nats": 0.0,
            "ranks": [2, 3, 4],
            "same_as": same.get(variant),
            "rise_nats": loss * ratios.get(variant, 1.0),
        }
        for model, loss in (("one", 1.0), ("two", 2.0))
        for variant in VARIANTS
    ]


def test_tables_show_ratios_means_and_exceptions() -> None:
    shown = made({"a3+": 0.5, "feedback": 0.25}, qk_gains="a3")
    shown[len(VARIANTS) + list(VARIANTS).index("a3+")]["rise_nats"] = 1.6
    lines = ablation.table(shown).splitlines()
    assert len(lines) == 7
    assert all(line.count("|") == lines[0].count("|") for line in lines[:5])
    assert lines[2].endswith("| 0.5000 | 0.50 |")
    assert lines[3].endswith("| 1.6000 | **0.80** |")
    assert lines[4].endswith(f"| {geometric([0.5, 0.8]):.2f} x | 0.63 |")
    assert lines[6] == "`a3+` above 0.7 of `a3`: two at 80%."
    assert ablation.table(made({"a3+": 0.7})).endswith(": nowhere.")
    steps = {line.split("`")[1]: line for line in ablation.steps_table(shown).splitlines()[2:]}
    assert list(steps) == list(SINGLES)
    assert steps["feedback"] == "| `feedback` | 2 | 0.25 (0.25 to 0.25) |"
    assert steps["qk_gains"] == "| `qk_gains` | 0 | - |"


def test_every_step_is_in_a_group() -> None:
    grouped = {name for variant in ("+mlp", "+ov", "+qk") for name in GROUPS[variant].names}
    assert grouped | {"feedback"} == set(SINGLES)
    assert set(GROUPS["a3+"].names) == set(SINGLES)


def test_peers_see_the_same_windows_and_counts(llama: Subject, tmp_path: Path) -> None:
    blocks, cache = Rows(tmp_path / "blocks.json"), Rows(tmp_path / "cache.json")
    peers.measure(blocks, llama, ["a3", "a3+", "svd"], kv=False)
    peers.measure(cache, llama, ["a3", "a3+", "palu_uniform", "clover"], kv=True)
    dense = {row["dense_block_params"] for row in blocks}
    assert len(dense) == 1
    for row in blocks:
        assert row["block_params"] <= float(row["keep"]) * row["dense_block_params"]
    for row in cache:
        if "error" in row:
            assert (row["method"], row["keep"]) == ("clover", "0.5")
        else:
            assert row["dense_kv_elements_per_token"] == 2 * 2 * 8 * 2  # layers, K and V, heads of 8
            kept = row["kv_elements_per_token"] / row["dense_kv_elements_per_token"]
            assert float(row["keep"]) - 0.1 < kept <= float(row["keep"])
    again = Rows(tmp_path / "cache.json", resume=True)
    assert again == cache
    peers.measure(again, llama, ["a3", "a3+", "palu_uniform", "clover"], kv=True)
    assert again == cache
    lines = peers.table(cache).splitlines()
    assert len(lines) == 2 + 2 * 4
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_rows_of_the_ablation_stand_for_a3_and_a3_plus(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablated, plans = tmp_path / "ablation.json", tmp_path / "plans.json"
    Rows(ablated).add(rows)
    plans.write_text('{"allocation": []}', encoding="utf-8")
    peers.main(["--models", "nobody", "--ablation", str(ablated), "--plans", str(plans)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "uniform" in line]
    assert len(lines) == len(KEEPS) * len(peers.OURS)
    assert all("| - |" not in line.rsplit("|", 3)[0] for line in lines)


def test_cutting_the_cache_leaves_the_mlp_alone(llama: Subject) -> None:
    ranks = peers.kv_ranks(llama, "0.5")
    assert (ranks.qk, ranks.ov, ranks.mlp) == ((4, 4), (4, 4), (40, 40))
    for layer, source in zip(
        SolvedModel(llama, ["a3"]).layers("a3", ranks), llama.opened.source, strict=True
    ):
        torch.testing.assert_close(layer.down_mD, source.down_mD.double(), rtol=0, atol=0)


def test_mixed_plans_come_from_reports_with_one_budget() -> None:
    stored = stored_report("kept")
    report = stored.replaced(plan=stored.plan.replaced(evaluation_rise_nats=0.25)).document
    budgets = (["block_params=0.8"], ["block_params=0.8", "kv_bytes_per_token=0.5"], ["block_params=0.5"])
    found = peers.plan_rows([{"model": "one", "budgets": each, "report": report} for each in budgets])
    assert found == [{"model": "one", "method": peers.PLAN, "keep": "0.8", "rise_nats": 0.25}]


def test_sentences_start_anew(tmp_path: Path) -> None:
    save(tiny("llama"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"bos_token": "w60"}', encoding="utf-8")
    text, beginnings = tmp_path / "text.txt", tmp_path / "beginnings.txt"
    sentences = 'w1 w2 w3. "w4 w5." w6 w7 w8 w9!\n\nw10 w11 w12? w13. '
    text.write_text(8 * sentences, encoding="utf-8")
    copy = by_sentence(tmp_path / "model", {text: beginnings}, tmp_path / "copy", 3)
    assert (copy / "model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()
    case = Case("one", copy, beginnings, beginnings)
    # The tokenizer takes marks for the unknown word; the last sentence is too short with it.
    expected = [[60, 1, 2, 3], [60, 0, 4, 5], [60, 6, 7, 8], [60, 10, 11, 12]]
    assert subject(case).evaluation.tolist() == 8 * expected
    assert subject(case).prefix == 1
