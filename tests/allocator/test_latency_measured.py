"""``rankalloc latency`` on small models: the table is whole, its steps rise, and budgets can be planned with it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from allocator.plan.ask.budgets import parse_budget
from allocator.plan.files.latency_file import import_table
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.latency import read_table
from allocator.plan.model.ranks import Ranks
from allocator.profiling.timing.design import Design, ModelName, spread_ranks
from allocator.profiling.timing.latency_table import measured_table
from allocator.profiling.timing.models import Setup, geometry_without_weights
from allocator.profiling.timing.promises import Promise
from allocator.profiling.timing.staircase import time_staircase
from solvers.checkpoints import reading
from tests.support.command import run
from tests.support.models import save, tiny

PLACES = [(1, 12, "prefill"), (2, 12, "decode")]


def setup_of(folder: Path, **options: Any) -> Setup:
    config, geometry = geometry_without_weights(reading.inspect(folder), torch.float32)
    return Setup(
        config, geometry, torch.float32, torch.device("cpu"), points=3, rounds=3, turn_s=1e-4, **options
    )


@pytest.fixture(params=["llama", "gpt2", "gemma2", "mpt", "mixtral", "gpt_neox"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save(tiny(request.param).float(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(params=[("llama", 6), ("gpt2", 5)], ids=str)
def deep(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of more layers than are built."""
    family, layers = request.param
    save(tiny(family, num_hidden_layers=layers).float(), tmp_path / "model")
    return tmp_path / "model"


def test_layers_that_are_not_built_take_their_time_too(deep: Path) -> None:
    setup = setup_of(deep, layers=2)
    shallow = setup.at(2, Design(setup).models["dense", 0])
    assert sum("q_proj.weight" in name for name, _ in shallow.named_parameters()) == 2
    document = measured_table(setup, PLACES)
    assert document["layers_measured"] == 2
    for timing in document["timings"]:
        assert all(0 < check["measured_ns"] < timing["dense_ns"] * 10 for check in timing["checks"])
        assert len(timing["checks"]) == 3
    assert read_table(document).geometry.layers == setup.geometry.layers


def test_every_family_is_timed_through_its_compact_code(folder: Path) -> None:
    setup, turns = setup_of(folder), []
    document = measured_table(setup, PLACES, lambda done, total: turns.append((done, total)))
    table = read_table(json.loads(json.dumps(document)))
    assert document["layers_measured"] == 2
    assert turns[-1][0] == turns[-1][1] == len(turns)
    costs = CostModel(setup.geometry, table)
    for batch, context, phase in PLACES:
        metric = Metric("latency", batch=batch, context=context, phase=phase)
        dense = Ranks.dense(setup.geometry)
        least = Ranks(*((setup.geometry.candidate_ranks(c)[0],) * setup.geometry.layers for c in COMPONENTS))
        assert 0 < costs.total(metric, least) <= costs.total(metric, dense)
        assert costs.dense(metric) > 0


def test_what_is_timed_are_the_ranks_of_the_program(folder: Path) -> None:
    setup = setup_of(folder)
    design = Design(setup)
    for (name, rank), ranks in design.models.items():
        model = setup.at(2, ranks)
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert counted == CostModel(setup.geometry).total(Metric("params"), ranks), (name, rank)
    assert spread_ranks([2, 4, 6, 8, 9], 3) == [2, 6, 9]
    assert spread_ranks([8], 5) == [8]


def test_all_models_live_in_one_block_of_weights_of_which_each_takes_its_own(folder: Path) -> None:
    setup = setup_of(folder)
    models = [setup.at(2, ranks) for ranks in Design(setup).models.values()]
    blocks = {weight.untyped_storage().data_ptr() for model in models for weight in model.parameters()}
    assert len(blocks) == 1
    for model in models:
        spans = sorted((w.storage_offset(), w.storage_offset() + w.numel()) for w in model.parameters())
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
    dense, *_ = models
    stock = AutoModelForCausalLM.from_config(setup.config)
    tied = stock.get_input_embeddings().weight is stock.get_output_embeddings().weight
    assert (dense.get_input_embeddings().weight is dense.get_output_embeddings().weight) == tied


def test_parts_that_add_up_are_found_again_and_noise_errs_to_the_slow_side(tmp_path: Path) -> None:
    save(tiny("llama").float(), tmp_path / "model")
    design = Design(setup_of(tmp_path / "model"))
    each = {"qk": 0.01, "ov": 0.02, "mlp": 0.003}

    def time_of(name: ModelName) -> float:
        return 0.3 + sum(each[c] * rank for c in COMPONENTS for rank in design.models[name].of(c))

    found = time_staircase(design, time_of, depth=2)
    on_steps = [n for n in design.models if n[0] != "check" and n != ("qk", design.ranks["qk"][0])]
    for name in on_steps:
        if all(set(design.models[name].of(c)) <= set(design.ranks[c]) for c in COMPONENTS):
            assert found.of(design.models[name], 2) == pytest.approx(time_of(name)), name
    for name in design.models:
        assert found.of(design.models[name], 2) >= time_of(name) - 1e-9
    first, second = design.ranks["mlp"][:2]
    noisy = time_staircase(design, lambda name: time_of(name) + 9.0 * (name == ("mlp", first)), depth=2)
    assert noisy.heights["mlp"][design.ranks["mlp"].index(second)] == 0.0


def test_the_command_writes_a_table_that_it_reads_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tiny("llama").float(), tmp_path / "model")
    out = tmp_path / "table.json"
    options = ["--context", "12", "--points", "3", "--rounds", "3", "--phase", "decode", "--out", out]

    def called(*more: object) -> tuple[int, str, str]:
        return run(capsys, monkeypatch, tmp_path / "home", "latency", tmp_path / "model", *options, *more)

    code, printed, shown = called("--json")
    assert code == 0, shown
    table = import_table(out.read_bytes())
    assert json.loads(printed)["digest"] == table.digest
    assert table.timings[0].phase == "decode"
    assert "name a new file" in called()[2]
    out.unlink()
    for more, said in (
        (["--context", "65"], "at most 64"),
        (["--phase", "training"], "prefill, decode"),
        (["--batch", "0"], "whole numbers from 1"),
        (["--dtype", "int8"], "float32, bfloat16, float16"),
    ):
        code, _, shown = called(*more)
        assert (code, said in shown) == (2, True), shown
    assert not out.exists()


def test_a_missed_limit_says_what_to_ask_for_instead() -> None:
    promise = Promise(
        "latency=0.8@batch=1,context=64,phase=decode", (1, 64, "decode"), limit=0.8, promised=0.79
    )
    missed = promise.judged([0.99, 1.0, 1.01], dense_s=0.002)
    assert (missed["kept"], missed["ask_for"]) == (False, "latency=0.63@batch=1,context=64,phase=decode")
    assert parse_budget(missed["ask_for"]).metric == parse_budget(promise.text).metric
    assert (missed["measured"], missed["dense_ns"]) == (1.0, 2_000_000)
    slack = Promise(promise.text, promise.place, limit=0.9, promised=0.32).judged([1.02] * 3, dense_s=0.002)
    assert slack["ask_for"].startswith(
        "latency=0.28@"
    )  # below what the plan was promised, or the same plan came back
    slower = Promise("latency=9s@batch=1,context=64,phase=decode", promise.place, limit=3.0, promised=2.9)
    assert parse_budget(slower.judged([3.2] * 3, dense_s=0.002)["ask_for"]).fraction == 1
    assert (
        Promise(promise.text, promise.place, 0.05, 0.05).judged([1.0] * 3, dense_s=0.002)["ask_for"] is None
    )
    kept = promise.judged([0.7, 0.8, 0.9], dense_s=0.002)
    assert (kept["kept"], kept["ask_for"]) == (True, None)
