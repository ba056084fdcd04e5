"""What ``memory@weights=...`` promises against the bytes that torchao writes and holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from allocator.plan.ask.budgets import parse_metric
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.dtypes import linear_bytes
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.checkpoints.writing import write_compact
from solvers.families import FAMILIES
from solvers.model.surgery import open_model
from solvers.quantization import LARGEST_GROUP, can_pack, group_size, stored_bytes, weight_only
from tests.composition.conftest import Compact, compact
from tests.support.models import CASES, case_id, save, tiny, token_ids

BITS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4},
    "int4packed": {"bits": 4, "packed": True},
}


def promised(costs: CostModel, ranks: Ranks, kind: str) -> int:
    """Bytes of the weights alone: those of one cached token are taken off."""
    memory, cache = (
        parse_metric(text) for text in (f"memory@context=1,weights={kind}", "kv_bytes_per_token")
    )
    return costs.total(memory, ranks) - costs.total(cache, ranks)


def written(folder: Path) -> int:
    """Bytes of the tensors in a checkpoint, but for the numbers of rotary pairs."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(file.get_tensor(name).nbytes for name in file.keys() if not name.endswith(".pairs"))
    return total


def quantized(folder: Path, out: Path, kind: str, dtype: torch.dtype) -> int:
    """Bytes of the weights that ``weight_only`` writes from the checkpoint in ``folder``."""
    config = weight_only(folder, **BITS[kind])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config)
    model.save_pretrained(out)
    return written(out)


@pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
def test_every_family_is_written_in_as_many_bytes_as_promised(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    dtype = torch.float32
    source = tmp_path / "source"
    model = tiny(family, **options)
    save(tiny(family, **options).float(), source)  # a folder of float64 is refused
    opened = open_model(model)
    geometry = Geometry(
        **FAMILIES[family].geometry(model.config),
        total_params=sum(p.numel() for p in opened.model.parameters()),
        bytes_per_param=dtype.itemsize,
    )
    # 17 neurons and 4 x 5 or 1 x 7 inputs have no group, 4 x 6 have one; the second MLP is whole.
    wanted = {"qk": (4, 2), "ov": (5, 6), "mlp": (17, geometry.intermediate)}
    ranks = Ranks(
        **{c: (geometry.full_rank(c),) * 2 if c in geometry.fixed else wanted[c] for c in COMPONENTS}
    )
    layers = [
        solve_layer(opened.source[index], found).compressed(
            qk=ranks.qk[index], ov=ranks.ov[index], mlp=ranks.mlp[index]
        )
        for index, found in enumerate(moments.collect(opened, token_ids(4, 20)))
    ]
    folder = tmp_path / "compact"
    write_compact(opened, layers, folder, source=source, dtype=dtype)
    costs = CostModel(geometry)
    assert promised(costs, ranks, "float32") == written(folder)
    for kind in ("int8", "int4"):
        assert promised(costs, ranks, kind) == quantized(folder, tmp_path / kind, kind, dtype), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_scales_of_groups_are_in_the_checkpoints_own_type(
    checkpoint: Compact, dtype: torch.dtype, tmp_path: Path
) -> None:
    geometry = checkpoint.cut.geometry
    costs = CostModel(Geometry(**{**vars(geometry), "bytes_per_param": dtype.itemsize}))
    for kind in ("int8", "int4"):
        found = quantized(checkpoint.folder, tmp_path / kind, kind, dtype)
        assert promised(costs, checkpoint.cut.ranks, kind) == found
    plain = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    held = sum(parameter.nbytes for parameter in plain.parameters())
    assert promised(CostModel(geometry), checkpoint.cut.ranks, name) == held


@pytest.mark.parametrize("packable", [True, False])
def test_packed_weights_are_held_in_as_many_bytes_as_promised(tmp_path: Path, packable: bool) -> None:
    made = compact("pylm-llama", tmp_path / "compact", block_params="0.8", packable=packable)
    model = made.load(quantization_config=weight_only(made.folder, bits=4, packed=True))
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    costs = CostModel(Geometry(**{**vars(made.cut.geometry), "bytes_per_param": 4}))
    assert promised(costs, made.cut.ranks, "int4packed") == stored_bytes(model) - buffers


def test_shapes_take_four_bits_where_the_quantizer_says_so() -> None:
    for inputs in range(1, 400):
        size = group_size(inputs)
        eight = inputs * 48 + 48 * 5
        expected = eight if size is None else inputs * 48 + 48 * (inputs // size) * (2 + 1)
        assert linear_bytes("int4", inputs, 48, 2) == expected
        for outputs in (16, 24, 48):
            packed = inputs * outputs // 2 + outputs * (inputs // LARGEST_GROUP) * 2 * 2
            wanted = packed if can_pack(inputs, outputs) else inputs * outputs + outputs * 5
            assert linear_bytes("int4packed", inputs, outputs, 2) == wanted
