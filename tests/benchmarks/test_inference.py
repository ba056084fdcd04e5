"""Rows of the inference benchmark for tiny shapes: FLOPs and cache bytes by hand, never a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import inference
from benchmarks.inference_shapes import CUTS, VOCAB, ModelShape, llama

PROMPT, STEPS = 24, 4
LLAMA = llama("tiny", 64, "4/2x16", 128, layers=2, prompt=PROMPT)
GPT2 = ModelShape("tiny gpt2", "gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 2}, PROMPT)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return inference.run(shapes=[LLAMA, GPT2], seconds=0)


def flops(shape: ModelShape, ranks: tuple[int, int, int], attended: float) -> float:
    """Multiplications and additions per token of every product, written out."""
    keys, matrices = (2, 3) if shape is LLAMA else (4, 2)
    qk, ov, mlp = ranks
    weights = 64 * (4 + keys) * (qk + ov) + matrices * 64 * mlp
    return 2 * (2 * weights + 2 * 4 * (qk + ov) * attended) + 2 * 64 * VOCAB


def test_every_cut_has_rows_with_the_promise_and_the_bytes_of_its_ranks(rows: list[dict[str, Any]]) -> None:
    for shape, keys, full in ((LLAMA, 2, (16, 16, 128)), (GPT2, 4, (16, 16, 256))):
        mine = [row for row in rows if row["shape"] == shape.name]
        assert {row["cut"] for row in mine if row["attention"] == "sdpa"} == set(CUTS)
        assert {row["cut"] for row in mine if row["attention"] == "eager"} == {"10 %", "40 %"}
        for row in mine:
            for phase, attended in (("prefill", (PROMPT + 1) / 2), ("decode", PROMPT + STEPS / 2)):
                expected = flops(shape, full, attended) / flops(shape, tuple(row["ranks"]), attended)
                found = row[phase]
                assert found["promised"] == pytest.approx(expected, rel=1e-12)
                assert found["share"] == pytest.approx(found["speed_up"] / expected, rel=1e-12)
            float32, layers, tokens = 4, 2, PROMPT + STEPS
            assert row["kv_tokens"] == tokens
            assert row["kv_bytes"] == layers * keys * sum(row["ranks"][:2]) * float32 * tokens
            assert row["dense_kv_bytes"] == layers * keys * 32 * float32 * tokens


def test_cuts_have_the_ranks_that_their_names_say(rows: list[dict[str, Any]]) -> None:
    ranks = {row["cut"]: row["ranks"] for row in rows if row["shape"] == LLAMA.name}
    assert ranks["QK .6 OV .8 MLP .8"] == [8, 12, 102]  # floored to rotated pairs, 1 and 2
    assert all(rank % 8 == 0 for rank in ranks["10 %, multiples of 8"])
    removed = {"10 %": 0.1, "20 %": 0.2, "40 %": 0.4}
    for cut, fraction in removed.items():
        qk, ov, mlp = ranks[cut]
        kept = (64 * 6 * (qk + ov) + 3 * 64 * mlp) / (64 * 6 * 32 + 3 * 64 * 128)
        assert kept <= 1 - fraction < kept + 0.08


def test_the_table_has_a_line_for_each_row_and_marks_restless_times(rows: list[dict[str, Any]]) -> None:
    calm = {**rows[0], "prefill": {**rows[0]["prefill"], "dense_spread": 0.01}}
    restless = {**calm, "prefill": {**calm["prefill"], "dense_spread": 0.5}}
    head, _, first, second = inference.table([calm, restless]).splitlines()
    assert head.count("|") == first.count("|") == second.count("|")
    assert "~" not in first.split("|")[5]
    assert "~" in second.split("|")[5]


def test_processor_time_needs_one_thread_of_a_cpu() -> None:
    assert torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="works on a CPU with one"):
        inference.run("cuda", [LLAMA], seconds=0, busy=True)
