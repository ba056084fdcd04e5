"""Trained models cut by all steps together: each stage loses less than the one before, on text that no solver saw."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.profiling.divergence import kl_to_dense
from solvers.a3 import moments as moments_module
from solvers.a3.compress import solve_layer
from solvers.a3.feedback import compress_with_feedback
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints import reading
from solvers.model.surgery import open_model
from solvers.texts.text import read_text
from tests.support.damage import EXAMPLES


@pytest.mark.parametrize("name", ["pylm-llama", "pylm-gpt2"])
def test_a3_plus_loses_much_less_than_a3_on_held_out_text(name: str) -> None:
    """Trained models, uniform ranks at 80 %: KL on windows that no solver saw; each stage must win."""
    folder = EXAMPLES / name
    text = read_text(folder / "calibration.txt", folder, window=256, what="calibration")
    fit, held_out = text.fit(48), text.measure(12)
    dense = reading.load(reading.inspect(folder))
    opened = open_model(reading.load(reading.inspect(folder)))
    found = None
    for part in fit.split(8):
        found = moments_module.add(found, moments_module.collect(opened, part))
    assert found is not None
    source = opened.source[0]
    step = 1 if source.pairs is None else 2
    ranks = {"qk": int(0.8 * source.qk_rank) // step * step, "ov": int(0.8 * source.ov_rank)}
    ranks["mlp"] = int(0.8 * source.mlp_rank)

    def loss(layers: list[Any]) -> float:
        for index, weights in enumerate(layers):
            opened.put(index, weights)
        value, _ = kl_to_dense(dense, opened.model, held_out, opened.config.vocab_size, lambda: None)
        for index in range(len(layers)):
            opened.reset(index)
        return value

    paper = [solve_layer(w, m).compressed(**ranks) for w, m in zip(opened.source, found, strict=True)]
    ours = [solve_layer(w, m, A3_PLUS).compressed(**ranks) for w, m in zip(opened.source, found, strict=True)]
    fed, _ = compress_with_feedback(opened, fit, lambda index: ours[index])
    a3, shot, both = loss(paper), loss(ours), loss(fed)
    assert shot < 0.6 * a3
    assert both < shot
