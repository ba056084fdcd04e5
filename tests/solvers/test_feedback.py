"""Error feedback: literal ridge problems on the tokens, nothing where nothing was cut, and less loss where it matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from solvers.a3 import feedback
from solvers.a3.feedback import LayerRecord, compress_with_feedback
from solvers.a3.ridge import Refit
from solvers.checkpoints.writing import stored
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights
from tests.support.models import CASES, case_id, tiny, token_ids
from tests.support.one_shot import one_shot
from tests.support.ridge import held_out_errors, ridge, stacked, with_intercept

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
FAMILIES = [("llama", {"kv_heads": 2}), ("gpt2", {})]
Weights = tuple[torch.Tensor, torch.Tensor | None]
"""A projection's matrix and its bias."""


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_layers_before_the_first_cut_are_left_alone(family: str, options: dict[str, Any]) -> None:
    opened, ids = open_model(tiny(family, **options)), token_ids(16, 30)
    cuts = one_shot(opened, ids, mlp=20)
    cuts[0] = opened.source[0].to(dtype=torch.float64)
    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    assert layers[0] is cuts[0]
    assert records[0] == LayerRecord(0, None, None)
    assert records[1].layer == 1
    assert records[1].down_proj is not None


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_the_stream_runs_on_what_a_layer_will_compute_with(family: str, options: dict[str, Any]) -> None:
    """Weights of the first layer are held coarsely: it counts as cut, and the second makes good what that loses."""
    opened, ids = open_model(tiny(family, **options)), token_ids(48, 30)
    whole = [layer.to(dtype=torch.float64) for layer in opened.source]

    def coarse(index: int, weights: LayerWeights) -> LayerWeights:
        if index:
            return weights
        step = weights.q_DHr.abs().max() / 3
        return replace(weights, q_DHr=(weights.q_DHr / step).round() * step)

    hidden, calls = opened.start(ids)
    goal = opened.advance(hidden, calls, 0, len(whole))
    layers, records = compress_with_feedback(opened, ids, lambda index: whole[index], held=coarse)
    assert all(record.o_proj for record in records)
    assert torch.equal(layers[0].q_DHr, whole[0].q_DHr), "what is given back is not what is held"
    errors = []
    for variant in (whole, layers):
        for index, weights in enumerate(variant):
            opened.put(index, coarse(index, weights))
        errors.append(float((opened.advance(hidden, calls, 0, len(whole)) - goal).square().sum()))
    assert 0 < errors[1] < errors[0]
    plain, records = compress_with_feedback(opened, ids, lambda index: whole[index])
    assert all(kept is given for kept, given in zip(plain, whole, strict=True))


@every_family
def test_every_family_is_refitted_where_it_is_cut(family: str, options: dict[str, Any]) -> None:
    """Finite, of the cut's shapes, and never worse than one-shot on the dense hidden states it was fitted to."""
    opened, ids = open_model(tiny(family, **options)), token_ids(48, 30)
    ranks = {name: rank for name, rank in {"ov": 3, "mlp": 20}.items() if name not in opened.family.fixed}
    cuts = one_shot(opened, ids, **ranks)
    hidden, calls = opened.start(ids)
    goal = opened.advance(hidden, calls, 0, len(cuts))
    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    assert [record.layer for record in records] == [0, 1]
    assert all(record.o_proj for record in records)
    assert all((record.down_proj is None) == ("mlp" in opened.family.fixed) for record in records)
    errors = []
    for variant in (cuts, layers):
        for index, weights in enumerate(variant):
            opened.put(index, weights)
        errors.append(float((opened.advance(hidden, calls, 0, len(cuts)) - goal).square().sum()))
    assert errors[1] <= errors[0] * 1.01
    for before, after in zip(cuts, layers, strict=True):
        for name, tensor in vars(after).items():
            assert tensor is None or tensor.shape == getattr(before, name).shape


def streams(opened: Any, layers: list[Any], ids: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
    """Activations of layer ``index`` when the first layers are ``layers``: from a plain forward pass of the whole model."""
    for number, weights in enumerate(layers):
        opened.put(number, weights)
    caught: dict[str, torch.Tensor] = {}
    attention, mlp = opened.attention(index), opened.layer(index).mlp

    def layer_hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        caught.update(h=args[0] if args else kwargs["hidden_states"], out=out)

    handles = [
        opened.layer(index).register_forward_hook(layer_hook, with_kwargs=True),
        attention.o_proj.register_forward_hook(lambda m, args, out: caught.update(z=args[0], a=out)),
        mlp.down_proj.register_forward_hook(lambda m, args, out: caught.update(x=args[0], m=out)),
    ]
    with torch.no_grad():
        opened.model(ids)
    for handle in handles:
        handle.remove()
    for number in range(len(opened.source)):
        opened.reset(number)
    return {name: tensor.flatten(0, -2) for name, tensor in caught.items()}


def assert_is_ridge(
    record: Refit | None,
    ours: Weights,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    start: Weights,
    rows: int,
) -> None:
    """Weights and bias are the choice of two-fold cross-validation over alternate batches of ``rows`` tokens."""
    assert record is not None
    (weights, bias), (before, offset) = ours, start
    if bias is not None and offset is not None:
        inputs, weights = with_intercept(inputs), torch.cat([weights, bias[None]])
        before = torch.cat([before, offset[None]])
    batches = list(zip(inputs.split(rows), targets.split(rows), strict=True))
    assert len(batches) > 1
    errors = held_out_errors((stacked(batches[::2]), stacked(batches[1::2])), before)
    least = min(errors.values())
    assert record.error_ratio == pytest.approx(least / errors[None], rel=1e-6)
    assert errors[record.share] <= least * (1 + 1e-6)
    expected = ridge((inputs, targets), before, record.share)
    assert torch.allclose(weights, expected, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("coarse", [False, True], ids=["", "held in bits"])
@pytest.mark.parametrize(
    ("family", "options", "windows", "limit", "batch"),
    [
        ("llama", {"kv_heads": 2}, 20, 2048, 8),
        ("gpt2", {}, 96, 2048, 8),
        ("gpt_neox", {}, 24, 100, 4),  # so many tokens of windows of 25
        ("mpt", {}, 6, 10, 1),
        ("qwen3", {}, 3, 2048, 1),
        ("gemma2", {}, 7, 2048, 3),
        ("opt", {"do_layer_norm_before": False}, 16, 2048, 8),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else case_id(value),
)
def test_refits_are_the_ridge_problems_of_the_docstring(
    family: str,
    options: dict[str, Any],
    windows: int,
    limit: int,
    batch: int,
    coarse: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``batch``: eight windows, those of ``limit`` tokens, or half of all, whichever are fewest; one at least."""
    if limit != 2048:
        monkeypatch.setattr(feedback, "_BATCH_TOKENS", limit)
    opened, ids = open_model(tiny(family, **options)), token_ids(windows, 25)
    ranks = {"qk": 4, "ov": 3, "mlp": 20}
    cuts = one_shot(opened, ids, **{c: rank for c, rank in ranks.items() if c not in opened.family.fixed})

    def held(index: int, weights: LayerWeights) -> LayerWeights:
        return stored(weights, torch.bfloat16) if coarse else weights

    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index], held=held)
    for index, (record, cut, layer) in enumerate(zip(records, cuts, layers, strict=True)):
        assert record.layer == index
        dense, earlier = streams(opened, [], ids, index), [held(at, layers[at]) for at in range(index)]
        now = streams(opened, [*earlier, held(index, cut)], ids, index)
        # Behind a norm of its own what a projection puts out is no part of the residual stream.
        behind_a_norm = family in ("gemma2", "opt")
        assert_is_ridge(
            record.o_proj, (layer.o_HrD.flatten(0, 1), layer.o_bias_D),
            now["z"], dense["a"] if behind_a_norm else dense["h"] + dense["a"] - now["h"],
            (cut.o_HrD.flatten(0, 1), cut.o_bias_D), 25 * batch,
        )  # fmt: skip
        now = streams(opened, [*earlier, held(index, replace(layer, down_mD=cut.down_mD))], ids, index)
        assert_is_ridge(
            record.down_proj, (layer.down_mD, layer.down_bias_D),
            now["x"], dense["m"] if behind_a_norm else dense["out"] - now["h"] - now["a"],
            (cut.down_mD, cut.down_bias_D), 25 * batch,
        )  # fmt: skip
