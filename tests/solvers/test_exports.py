"""Both exports of every family: written from a folder, recounted, loaded, and the same function under every use.

The padded export, run by the stock class, is the reference for the compact one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from allocator.stages.apply import check_counts
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.checkpoints import reading
from solvers.checkpoints.recounting import recount
from solvers.checkpoints.writing import stored, write_compact, write_padded, write_stock
from solvers.families import FAMILIES
from solvers.model.surgery import open_model
from tests.support.exports import loaded_elsewhere
from tests.support.models import CASES, cache_of, case_id, save, tiny, token_ids
from tests.support.plans import ranks_of

LENGTH = 24
"""Three times the windows of the tiny models."""


@dataclass
class Written:
    """One compressed model, in memory and on disk."""

    family: str
    source: Path
    compact: Path
    padded: Path
    geometry: Geometry
    ranks: Ranks

    def load(self, folder: Path, **options: Any) -> Any:
        # Eager attention takes its softmax in float32, where a float64 mask is infinite and a padding row NaN.
        eager = FAMILIES[self.family].attention_implementation == "eager"
        options |= {"dtype": torch.float32 if eager else torch.float64, "experts_implementation": "eager"}
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def write(root: Path, family: str, options: dict[str, Any]) -> Written:
    source, compact, padded = (root / name for name in ("source", "compact", "padded"))
    save(tiny(family, **options).float(), source)
    inspected = reading.inspect(source)
    model = reading.load(inspected)
    model.config._experts_implementation = "eager"
    opened = open_model(model)
    geometry = Geometry(
        **opened.family.geometry(model.config),
        total_params=sum(p.numel() for p in model.parameters()),
        bytes_per_param=4,
    )
    whole, ranks, layers = opened.family.fixed, [], []
    for index, found in enumerate(moments.collect(opened, token_ids(4, 40))):
        row = {"qk": 4 - 2 * index, "ov": 3 + index, "mlp": 17 + index}
        row |= {c: geometry.full_rank(c) for c in whole}  # type: ignore[misc]
        ranks.append({"layer": index, **row})
        layers.append(stored(solve_layer(opened.source[index], found).compressed(**row), torch.float32))
    compact.mkdir()
    padded.mkdir()
    write_compact(opened, layers, compact, source=source, dtype=torch.float32)
    write_padded(opened, layers, padded, source=source, dtype=torch.float32)
    return Written(family, source, compact, padded, geometry, ranks_of(ranks))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case_id(case[1])}")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    family, options = request.param
    return write(tmp_path_factory.mktemp(family), family, options)


def test_the_tensors_are_what_the_costs_promise(written: Written) -> None:
    counted = recount(written.compact, layer_count=2)
    check_counts(written.geometry, written.ranks, counted)
    assert counted["params"] < CostModel(written.geometry).summary(Ranks.dense(written.geometry))["params"]


@torch.no_grad()
def test_compact_is_padded_is_stock_without_and_with_padding_on_the_left(written: Written) -> None:
    compact, padded = written.load(written.compact), written.load(written.padded)
    assert type(padded).__module__.startswith("transformers.")
    ids = token_ids(3, LENGTH)
    expected = padded(ids).logits
    assert torch.allclose(compact(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(written.load(written.source)(ids).logits, expected, atol=1e-2)
    batch, mask = torch.zeros(2, LENGTH, dtype=torch.long), torch.zeros(2, LENGTH, dtype=torch.long)
    for row, length in enumerate((LENGTH - 5, LENGTH - 14)):
        batch[row, -length:], mask[row, -length:] = ids[row, :length], 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    options = {} if written.family == "mpt" else {"position_ids": positions}
    together = compact(batch, attention_mask=mask, **options).logits
    reference = padded(batch, attention_mask=mask, **options).logits
    for row, length in enumerate((LENGTH - 5, LENGTH - 14)):
        alone = compact(ids[row : row + 1, :length]).logits[0]
        assert torch.allclose(together[row, -length:], alone, atol=1e-5)
        assert torch.allclose(together[row, -length:], reference[row, -length:], atol=1e-5)
    new = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    continued = [model.generate(batch, attention_mask=mask, **new) for model in (compact, padded)]
    assert torch.equal(*continued)


@torch.no_grad()
def test_cached_generation_beyond_the_windows_equals_uncached_and_padded(written: Written) -> None:
    compact, padded = written.load(written.compact), written.load(written.padded)
    prompt = token_ids(2, 5)
    options: dict[str, Any] = {
        "max_new_tokens": LENGTH,
        "min_new_tokens": LENGTH,
        "do_sample": False,
        "attention_mask": torch.ones_like(prompt),
        "pad_token_id": 0,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    cached = compact.generate(prompt, use_cache=True, **options)
    stock = padded.generate(prompt, use_cache=True, **options)
    assert torch.equal(cached.sequences, stock.sequences)
    uncached = compact(cached.sequences).logits[:, 4:-1]
    assert torch.allclose(torch.stack(cached.logits, 1).to(uncached), uncached, atol=1e-4)
    held = {layer.keys.shape[2] for layer in cache_of(cached).layers}
    assert held == {window - 1 if window else 4 + LENGTH for window in written.geometry.windows or (0,)}


def test_plain_transformers_loads_compact_checkpoints_in_a_process_of_its_own(tmp_path: Path) -> None:
    chosen = ["mistral", "qwen3", "gemma3_text", "phi3", "mixtral", "gpt_neox", "opt", "mpt"]
    for family in chosen:
        (tmp_path / family).mkdir()
        write(tmp_path / family, family, {})
    names = [FAMILIES[family].compact[1].__name__ for family in chosen]
    found = loaded_elsewhere([tmp_path / family for family in chosen], tmp_path)
    assert found == [f"transformers_modules {name}" for name in names]


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "options"), CASES, ids=[f"{case[0]}-{case_id(case[1])}" for case in CASES]
)
def test_stock_is_padded_with_smaller_mlps(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    source, padded, stock = (tmp_path / name for name in ("source", "padded", "stock"))
    save(tiny(family, **options).float(), source)
    model = reading.load(reading.inspect(source))
    model.config._experts_implementation = "eager"
    opened = open_model(model)
    first = opened.source[0]
    row = {"qk": first.qk_rank, "ov": first.ov_rank, "mlp": min(17, first.mlp_rank)}
    layers = [
        stored(solve_layer(opened.source[index], found).compressed(**row), torch.float32)
        for index, found in enumerate(moments.collect(opened, token_ids(4, 40)))
    ]
    for folder, write in ((padded, write_padded), (stock, write_stock)):
        folder.mkdir()
        if folder == stock and FAMILIES[family].mlp_size is None:
            with pytest.raises(ValueError, match="one size of MLP"):
                write(opened, layers, folder, source=source, dtype=torch.float32)
            return
        write(opened, layers, folder, source=source, dtype=torch.float32)
    assert not list(stock.glob("*.py"))
    loaded, reference = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (stock, padded))
    assert type(loaded) is type(reference)
    ids = token_ids(3, LENGTH)
    assert torch.allclose(loaded(ids).logits, reference(ids).logits, atol=1e-5)
    fewer = sum(p.numel() for p in reference.parameters()) - sum(p.numel() for p in loaded.parameters())
    cut = first.mlp_rank - row["mlp"]
    per_neuron = sum(
        t.numel() for n, t in vars(first).items() if t is not None and n.endswith(("_Dm", "_mD", "_m"))
    )
    assert fewer == 2 * cut * (per_neuron // first.mlp_rank if cut else 0)


def test_what_a_stock_class_cannot_hold_is_not_written(tmp_path: Path) -> None:
    save(tiny("llama").float(), tmp_path / "source")
    opened = open_model(reading.load(reading.inspect(tmp_path / "source")))
    found = list(moments.collect(opened, token_ids(4, 40)))
    first = opened.source[0]
    whole = {"qk": first.qk_rank, "ov": first.ov_rank}
    for rows in (
        [{**whole, "mlp": 16}, {**whole, "mlp": 17}],
        [{**whole, "ov": 3, "mlp": 16}] * 2,
    ):
        layers = [
            stored(solve_layer(opened.source[index], each).compressed(**row), torch.float32)
            for index, (each, row) in enumerate(zip(found, rows, strict=True))
        ]
        with pytest.raises(ValueError, match="one size of MLP"):
            write_stock(opened, layers, tmp_path / "out", source=tmp_path / "source", dtype=torch.float32)
        assert not (tmp_path / "out").exists()
