"""Error feedback: literal ridge problems on the tokens, nothing where nothing was cut, and less loss where it matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from allocator.profiling.divergence import kl_to_dense
from solvers.a3 import feedback
from solvers.a3 import moments as moments_module
from solvers.a3.compress import solve_layer
from solvers.a3.feedback import LayerRecord, compress_with_feedback
from solvers.a3.ridge import SHARES, Refit, Ridge
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored
from solvers.model.surgery import open_model
from solvers.texts.text import read_text
from solvers.weights import LayerWeights
from tests.support.damage import EXAMPLES
from tests.support.models import CASES, case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
FAMILIES = [("llama", {"kv_heads": 2}), ("gpt2", {})]


def one_shot(opened: Any, ids: torch.Tensor, **ranks: int) -> list[Any]:
    found = moments_module.collect(opened, ids)
    return [
        solve_layer(opened.source[index], moments, A3_PLUS).compressed(**ranks)
        for index, moments in enumerate(found)
    ]


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_layers_before_the_first_cut_are_left_alone(family: str, options: dict[str, Any]) -> None:
    opened, ids = open_model(tiny(family, **options)), token_ids(16, 30)
    cuts = one_shot(opened, ids, mlp=20)
    cuts[0] = opened.source[0].to(dtype=torch.float64)
    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    assert layers[0] is cuts[0]
    assert (records[0].o_proj, records[0].down_proj) == (None, None)
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
    """Activations of layer ``index`` when the layers below are ``layers``: from a plain forward pass of the whole model."""
    for number, weights in enumerate(layers):
        opened.put(number, weights)
    caught: dict[str, torch.Tensor] = {}
    attention, mlp = opened.attention(index), opened.layer(index).mlp
    opened.layer(index).register_forward_pre_hook(lambda m, args: caught.update(h=args[0]))
    opened.layer(index).register_forward_hook(lambda m, args, out: caught.update(out=out))
    attention.o_proj.register_forward_hook(lambda m, args, out: caught.update(z=args[0], a=out))
    mlp.down_proj.register_forward_hook(lambda m, args, out: caught.update(x=args[0], m=out))
    with torch.no_grad():
        opened.model(ids)
    for number in range(len(opened.source)):
        opened.reset(number)
    for part in (opened.layer(index), attention.o_proj, mlp.down_proj):
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return {name: tensor.flatten(0, -2) for name, tensor in caught.items()}


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_refits_are_the_ridge_problems_of_the_docstring(family: str, options: dict[str, Any]) -> None:
    opened, ids = open_model(tiny(family, **options)), token_ids(96, 40)
    cuts = one_shot(opened, ids, qk=4, ov=3, mlp=20)
    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    dense = streams(opened, [source.to(dtype=torch.float64) for source in opened.source], ids, 1)
    last = records[1]
    assert last.o_proj is not None
    assert last.down_proj is not None

    def ridge(inputs: torch.Tensor, target: torch.Tensor, start: torch.Tensor, bias: Any, share: Any) -> Any:
        if bias is not None:
            inputs, start = torch.cat([inputs, torch.ones(len(inputs), 1)], 1), torch.cat([start, bias[None]])
        if share is None:
            return start
        levels = share * inputs.square().sum(0)
        stacked = torch.cat([inputs, levels.sqrt().diag()])
        wanted = torch.cat([target, levels.sqrt()[:, None] * start])
        return torch.linalg.lstsq(stacked, wanted).solution

    def joined(weights: torch.Tensor, bias: Any) -> torch.Tensor:
        return weights if bias is None else torch.cat([weights, bias[None]])

    if family == "gpt2":  # the other model's random tokens teach nothing that holds in the other fold
        assert {last.o_proj.share, last.down_proj.share} <= set(SHARES)
    before = streams(opened, [layers[0], cuts[1]], ids, 1)
    expected = ridge(
        before["z"], dense["h"] + dense["a"] - before["h"],
        cuts[1].o_HrD.flatten(0, 1), cuts[1].o_bias_D, last.o_proj.share,
    )  # fmt: skip
    ours = joined(layers[1].o_HrD.flatten(0, 1), layers[1].o_bias_D)
    assert torch.allclose(ours, expected, atol=1e-6 * float(expected.abs().max()))
    after = streams(opened, layers, ids, 1)
    expected = ridge(
        after["x"], dense["out"] - after["h"] - after["a"],
        cuts[1].down_mD, cuts[1].down_bias_D, last.down_proj.share,
    )  # fmt: skip
    ours = joined(layers[1].down_mD, layers[1].down_bias_D)
    assert torch.allclose(ours, expected, atol=1e-6 * float(expected.abs().max()))


def _stored(weights: LayerWeights, dtype: torch.dtype) -> LayerWeights:
    """As a job stores it: what solving left in float64 in the type that the model runs in."""
    narrower = {name: t.to(dtype) for name, t in weights.tensors().items() if t.dtype == torch.float64}
    return replace(weights, **narrower)


def _same(one: list[LayerWeights], two: list[LayerWeights]) -> bool:
    return all(
        torch.equal(tensor, other.tensors()[name])
        for each, other in zip(one, two, strict=True)
        for name, tensor in each.tensors().items()
    )


@pytest.mark.parametrize("coarse", [False, True], ids=["as stored", "held in bits"])
@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_a_run_that_goes_on_behind_finished_layers_is_one_run_to_the_last_bit(
    family: str, options: dict[str, Any], coarse: bool
) -> None:
    """A model in bfloat16, which runs in float32; wherever it was interrupted no finished layer is solved again."""
    layers, kinds = 5, {"layer_types": ["full_attention"] * 5} if family == "llama" else {}
    opened = open_model(tiny(family, **options, num_hidden_layers=layers, **kinds).to(torch.bfloat16))
    ids = token_ids(16, 30)
    cuts = one_shot(opened, ids, qk=4, ov=3, mlp=20)
    cuts[0] = opened.source[0].to(dtype=torch.float64)

    def held(index: int, weights: LayerWeights) -> LayerWeights:
        return stored(weights, torch.bfloat16) if coarse and index > 1 else weights

    whole, records = compress_with_feedback(opened, ids, lambda index: cuts[index], held=held)
    final = [weights.to(dtype=torch.bfloat16) for weights in whole]
    for done in range(layers + 1):
        solved, told = [], []

        def solve(index: int, solved: list[int] = solved) -> LayerWeights:
            solved.append(index)
            return cuts[index]

        again, found = compress_with_feedback(
            opened,
            ids,
            solve,
            lambda *at, told=told: told.append(at),
            finished=[
                (_stored(weights, opened.model.dtype), LayerRecord.from_document(record.document()))
                for weights, record in zip(whole[:done], records, strict=False)
            ],
            held=held,
        )
        assert solved == list(range(done, layers))
        assert found == records
        assert _same([weights.to(dtype=torch.bfloat16) for weights in again], final), done
        assert told[0] == (max(done, 1), layers), "progress starts where the work does"


def test_feedback_that_has_stopped_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience counts over the layers of both runs, and no stream runs where none is needed."""
    monkeypatch.setattr(feedback, "PATIENCE", 2)
    monkeypatch.setattr(feedback, "LEAST_GAIN", 1.0)  # nothing gains so much
    opened, ids = open_model(tiny("gpt2", num_hidden_layers=5)), token_ids(16, 30)
    cuts = one_shot(opened, ids, mlp=20)
    whole, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    assert [record.o_proj is not None for record in records] == [True, True, False, False, False]
    for done in (1, 2, 4, 5):
        finished = list(zip(whole[:done], records[:done], strict=True))
        passes: list[None] = []
        again, found = compress_with_feedback(
            opened,
            ids,
            lambda index: cuts[index],
            finished=finished,
            on_pass=lambda at=passes: at.append(None),
        )
        assert found == records
        assert _same(again, whole)
        assert bool(passes) == (done < 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_by_way_of_float32_is_rounding(dtype: torch.dtype) -> None:
    """Layers are stored as float32 before they get the checkpoint's type; what lies midway between two values could differ."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4096, generator=generator, dtype=torch.float64).to(dtype).double()
    between = values * (1 + torch.finfo(dtype).eps / 2)
    near = torch.cat(
        [between, *(between * (1 + sign * 2.0**-power) for sign in (-1, 1) for power in (26, 40, 52))]
    )
    assert torch.equal(near.to(dtype), near.float().to(dtype))


def test_cross_validation_keeps_the_one_shot_weights_where_feedback_only_fits_noise() -> None:
    """Targets of opposite sign in the two folds: what one teaches is wrong in the other, so the weights stay."""
    ridge = Ridge(intercept=False)
    generator = torch.Generator().manual_seed(0)
    inputs, noise = (torch.randn(40, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    for fold, sign in ((0, 1), (1, -1)):
        ridge.add(inputs, sign * noise, fold)
    start = torch.zeros(30, 30, dtype=torch.float64)
    weights, bias, record = ridge.fit(start, None)
    assert weights is start
    assert bias is None
    assert record == Refit(None, 1.0)


def test_the_model_is_dense_again_afterwards_even_when_interrupted() -> None:
    opened, ids = open_model(tiny("llama")), token_ids(16, 20)
    with torch.no_grad():
        expected = opened.model(ids).logits
    cuts = one_shot(opened, ids, mlp=20)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_with_feedback(opened, ids, lambda index: cuts[index], stop)
    with torch.no_grad():
        assert torch.allclose(opened.model(ids).logits, expected, atol=1e-12)
    assert not opened.attention(1).o_proj._forward_hooks


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
