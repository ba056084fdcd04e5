"""Ranks and weight bits as real jobs choose them: measured as torchao holds them, and in the bytes that were promised.

Three layers of a trained example model with a context of 64 tokens and a short text, so that a job takes seconds.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import AutoModelForCausalLM

from allocator.base.errors import InvalidInput
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import admissible_ranks
from allocator.profiling.divergence import kl_to_dense
from allocator.stages.request import Request
from allocator.stages.sources import PATH
from allocator.stages.stored_plan import resolved_request
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints import reading
from solvers.model.surgery import open_model
from solvers.quantization import linear_layers, planned_bits, stored_bytes, weight_only
from solvers.texts.text import Text, read_text
from tests.support import damage
from tests.support.homes import WINDOW, Home, opened_home
from tests.support.plans import ranks_of

FAST = {"solver": "a3+", "effort": "fast"}
BUDGETS = ["memory=0.5@context=64", "kv_bytes_per_token=0.8"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with opened_home(tmp_path_factory.mktemp("bits") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.brief(tmp_path_factory.mktemp("profiled"), window=WINDOW, calibration=12_000, layers=3)


def text_of(model: Path) -> Text:
    return read_text(model / "calibration.txt", model, window=WINDOW, what="calibration")


def rounded_by_torchao(module: nn.Module, dtype: torch.dtype, bits: int) -> None:
    """Every linear layer of a float32 module computes as torchao's layer does, made of its weights in the stored type."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    options: dict[str, Any] = {"set_inductor_config": False}
    packed = {"group_size": 32, "int4_choose_qparams_algorithm": "hqq", **options}
    config = Int8WeightOnlyConfig(**options) if bits == 8 else PrototypeInt4WeightOnlyConfig(**packed)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            made = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=dtype)
            with torch.no_grad():
                made.weight.copy_(layer.weight)
                quantize_(made, config)
                # Packed weights cannot be taken out again, but for the layer's answers to the unit vectors.
                answers = made(torch.eye(layer.in_features, dtype=dtype)).T
                layer.weight.copy_(made.weight.dequantize(torch.float32) if bits == 8 else answers)


def test_quantized_cuts_are_measured_beside_the_others_and_change_none_of_them(
    home: Home, model: Path
) -> None:
    plain = home.run(model, **FAST)
    both = home.run(model, **FAST, bits=[4, 8])
    one, other = home.profile(plain), home.profile(both)
    assert "bits" not in one.document
    assert "bits" not in one.identity
    assert list(other.bits) == other.identity["bits"] == [8, 4]
    assert one.key != other.key
    assert home.counts(both)["calibrated"] == 0
    geometry = one.model.geometry
    points = 0
    for mine, theirs in zip(one.curves, other.curves, strict=True):
        assert "quantized" not in mine.document
        assert mine == theirs.replaced(quantized={})
        for bits in (8, 4):
            found = theirs.quantized[str(bits)]
            ranks = admissible_ranks(geometry, mine.component, bits)
            measured = [point.rank for point in found.measured]
            assert list(found.ranks) == ranks
            assert {measured[0], measured[-1]} == {ranks[0], ranks[-1]}
            assert list(found.loss_nats) == sorted(found.loss_nats, reverse=True)
            points += len(measured)
    # Nothing but these, on one block of windows each.
    assert home.counts(both)["measured"] == points
    again = home.run(model, **FAST, bits=[8])
    assert home.counts(again) == {"measured": 0, "again": 0, "calibrated": 0}
    exported = export_profile(home.profile(both))
    assert import_profile(exported).profile.curves == home.profile(both).curves
    assert export_profile(import_profile(exported).profile) == exported


@pytest.mark.parametrize("bits", [8, 4])
def test_a_measured_unit_is_the_loss_of_a_model_put_together_by_hand(
    home: Home, model: Path, bits: int
) -> None:
    profile = home.profile(home.run(model, **FAST, bits=[8, 4]))
    inspected = reading.inspect(model)
    dtype, dense = reading.storage_dtype(inspected), reading.load(inspected)
    windows = text_of(model).measure(4 * 16)
    curves = {(curve.layer, curve.component): curve for curve in profile.curves}
    whole = copy.deepcopy(dense)
    rounded_by_torchao(whole.model.layers[2].mlp, dtype, bits)
    expected = kl_to_dense(dense, whole, windows, dense.config.vocab_size, lambda: None)[0]
    point = curves[2, "mlp"].quantized[str(bits)].measured[-1]
    assert point.rank == profile.model.geometry.intermediate
    assert point.loss_nats == pytest.approx(expected, rel=0.02)

    # Cut and rounded: the cut by the solver, the rounding by torchao's layers in the mixed-rank module.
    point = curves[1, "ov"].quantized[str(bits)].measured[1]
    opened = open_model(reading.load(inspected))
    collected = list(moments.by_layer(opened, text_of(model).fit(4 * 192).split(32)))
    solution = solve_layer(opened.source[1], collected[1], A3_PLUS)
    opened.put(1, solution.compressed(ov=point.rank).to(dtype=dtype))
    attention = opened.attention(1)
    kept = {name: copy.deepcopy(getattr(attention, name)) for name in ("q_proj", "k_proj")}
    rounded_by_torchao(attention, dtype, bits)
    for name, projection in kept.items():
        setattr(attention, name, projection)
    found = kl_to_dense(dense, opened, windows, dense.config.vocab_size, lambda: None)[0]
    assert point.loss_nats == pytest.approx(found, rel=0.02)


def test_a_compression_comes_out_in_the_bytes_that_it_promised(home: Home, model: Path) -> None:
    job = home.run(model, "compress", **FAST, bits=[8, 4], budgets=BUDGETS, export=["compact"])
    artifacts = home.settings.artifacts_dir / job.id
    plan = json.loads((artifacts / "plan.json").read_text())
    report = json.loads((artifacts / "report.json").read_text())
    ranks, geometry = ranks_of(plan["ranks"]), Geometry.stored(plan["model"]["geometry"])
    costs, folder = CostModel(geometry), artifacts / "compact"
    assert ranks.bits
    assert all(row["used"] <= row["limit"] for row in plan["budgets"])
    assert plan["certificate"]["status"] == "optimal"
    assert report["refinement"] is None
    named, linears = planned_bits(folder), linear_layers(folder)
    for row in plan["ranks"]:
        for component, projection in zip(COMPONENTS, ("k_proj", "o_proj", "up_proj"), strict=True):
            (name,) = [n for n in linears if f".{row['layer']}." in n and n.endswith(projection)]
            assert named.get(name) == row.get("bits", {}).get(component)

    held = AutoModelForCausalLM.from_pretrained(folder, quantization_config=weight_only(folder))
    buffers = sum(buffer.nbytes for buffer in held.buffers())
    promised = costs.total(Metric("memory", context=1), ranks) - costs.total(
        Metric("kv_bytes_per_token"), ranks
    )
    assert stored_bytes(held) - buffers == promised
    # In float32 arithmetic, as losses are measured: the same function, but for scales that are not rounded to the stored type.
    exact = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=weight_only(folder)
    ).eval()
    dense = reading.load(reading.inspect(model))
    measured = kl_to_dense(dense, exact, text_of(model).measure(4 * 16), geometry.vocab, lambda: None)[0]
    assert report["plan"]["measured_loss_nats"] == pytest.approx(measured, rel=0.03)
    bits = report["uniform_bits"]
    assert report["plan"]["predicted_loss_nats"] <= bits["predicted_loss_nats"]
    assert report["plan"]["measured_loss_nats"] < bits["measured_loss_nats"]
    assert "weight_only(name)" in (folder / "README.md").read_text()
    assert "@4" in (artifacts / "report.html").read_text()

    # The stored plan again, without its profile: byte for byte the same weights; never healed.
    request = {"model": f"{PATH}{model}", "plan": job.plan_digest, "export": ["compact"]}
    stored_request = resolved_request(home.store, "default", Request.stored("compress", request)).document
    del stored_request["model"]
    again = home.run(model, "compress", **stored_request)
    weights = "compact/model.safetensors"
    assert (home.settings.artifacts_dir / again.id / weights).read_bytes() == (
        artifacts / weights
    ).read_bytes()
    with pytest.raises(InvalidInput, match="heal: 5; with bits it must be 0"):
        resolved_request(home.store, "default", Request.stored("compress", {**request, "heal": 5}))
    with pytest.raises(AssertionError, match="has quantized cuts, which no probe compares"):
        home.run(model, "transfer", profile=plan["profile_key"])


def test_a_worker_without_torchao_says_what_to_install(
    home: Home, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(
        AssertionError, match=r"bits: this worker has no torchao.*pip install 'rankalloc\[quantize\]'"
    ):
        home.run(model, **FAST, bits=[8])
    home.run(model, **FAST)
