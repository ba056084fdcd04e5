"""Losses predicted from gradients: against whole-model autograd, and against measured KL where the second order is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allocator.profiling import logits
from allocator.profiling.gradients import predicted_losses
from allocator.profiling.measure import Variant, measure_layer
from allocator.profiling.work import made_again
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints.writing import stored
from solvers.model.surgery import open_model
from tests.support.models import CASES, case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
RANKS: dict[Any, list[int]] = {"qk": [4, 6], "ov": [2, 5], "mlp": [11, 30]}


def whole_of(family: str) -> set[str]:
    """Components that a family leaves as they are."""
    return {"mixtral": {"mlp"}, "qwen3": {"qk"}, "gemma3_text": {"qk"}}.get(family, set())


def test_states_made_again_on_the_way_back_are_those_of_the_way_forwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seven layers are three segments, of which the last has one layer; every layer is compared."""
    test_projections_are_those_of_whole_model_autograd("llama", {"num_hidden_layers": 7}, monkeypatch)


@every_family
def test_projections_are_those_of_whole_model_autograd(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """g . d with g from a backward pass through the stock model, and d the difference of two forward passes of one layer."""
    ids, labels = token_ids(3, 20), token_ids(3, 20, seed=9)
    opened = open_model(tiny(family, **options))
    monkeypatch.setattr(torch, "multinomial", lambda p, count, **more: labels.view(-1, 1).expand(-1, count))
    solutions = [
        solve_layer(opened.source[index], found, A3_PLUS)
        for index, found in enumerate(moments.collect(opened, token_ids(12, 30, seed=5)))
    ]
    wanted = {c: ranks for c, ranks in RANKS.items() if c not in whole_of(family)}
    layers, passes = range(len(solutions)), list[int]()
    predictions = dict(
        predicted_losses(
            opened, ids, dict.fromkeys(layers, wanted), solutions.__getitem__,
            labels=2, seed=0, dtype=torch.float32, on_pass=passes.append,
        )
    )  # fmt: skip
    assert list(predictions) == [*reversed(layers)]
    assert sum(passes) == (1 + 2) * len(layers) + made_again(len(layers))
    for layer in layers:
        dense, gradients = _by_hand(opened, ids, labels, layer)
        for component, ranks in wanted.items():
            place = "mlp" if component == "mlp" else "attention"
            for spot, rank in enumerate(ranks):
                opened.put(layer, stored(solutions[layer].compressed(**{component: rank}), torch.float32))
                cut, _ = _by_hand(opened, ids, labels, layer)
                opened.reset(layer)
                products = (gradients[place] * (cut[place] - dense[place])).sum(-1)
                predicted = predictions[layer][component]
                by_draw = predicted.projections_rn[spot].double().view(2, 3, 20)
                size = float(products.abs().max())
                assert torch.allclose(by_draw, products.expand(2, -1, -1), atol=1e-4 * size + 1e-7), component
                expected = products.square().mean(-1) / 2
                assert predicted.losses[spot] == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-13)


def _by_hand(opened: Any, ids: torch.Tensor, labels: torch.Tensor, layer: int) -> tuple[dict, dict]:
    """Outputs of the two projections of a layer in a whole pass, and the gradients of the summed NLL of ``labels`` there."""
    caught: dict[str, torch.Tensor] = {}
    places = {"attention": opened.attention(layer).o_proj}
    if hasattr(opened.layer(layer).mlp, "down_proj"):
        places["mlp"] = opened.layer(layer).mlp.down_proj

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            if output.requires_grad:
                output.retain_grad()
            else:
                output.requires_grad_()
            caught[name] = output

        return hook

    handles = [place.register_forward_hook(keep(name)) for name, place in places.items()]
    try:
        logits = opened.model(ids, use_cache=False).logits.float()
    finally:
        for handle in handles:
            handle.remove()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    gradients = {name: output.grad for name, output in caught.items()}
    return {name: output.detach() for name, output in caught.items()}, gradients


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_small_cuts_behind_the_last_attention_cost_what_is_predicted(family: str) -> None:
    """There no other token sees the error, so 1/2 E[(g . d)^2] is the KL to second order, with no term left out."""
    opened, ids = open_model(tiny(family)), token_ids(6, 30)
    found = moments.collect(opened, token_ids(40, 30, seed=5))
    last = len(opened.source) - 1
    solution = solve_layer(opened.source[last], found[last], A3_PLUS)
    ranks = [36, 39]
    (layer, predicted), *_ = predicted_losses(
        opened, ids, {last: {"mlp": ranks}}, lambda index: solution,
        labels=400, seed=0, dtype=torch.float32,
    )  # fmt: skip
    assert layer == last
    variants = [Variant("mlp", rank, solution.compressed(mlp=rank)) for rank in ranks]
    measured = measure_layer(opened, last, {0: (ids, variants)})[0]
    for one, other in zip(predicted["mlp"].losses, measured, strict=True):
        assert sum(one) == pytest.approx(sum(other), rel=0.05)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_labels_and_losses_are_the_same_whatever_is_computed_at_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the vocabulary, with capped logits and without."""
    opened, ids = open_model(tiny(family)), token_ids(4, 20)
    solutions = [
        solve_layer(opened.source[index], found, A3_PLUS)
        for index, found in enumerate(moments.collect(opened, ids))
    ]

    def run() -> list[float]:
        found = predicted_losses(
            opened, ids, {0: {"ov": [3]}}, solutions.__getitem__, labels=3, seed=1, dtype=torch.float32
        )
        return [loss for _, each in found for loss in each["ov"].losses[0]]

    at_once = run()
    monkeypatch.setattr(logits, "_HEAD_TOKENS", 7)
    monkeypatch.setattr(logits, "_CACHED_BYTES", 3 * 61 * 4)
    assert run() == pytest.approx(at_once, rel=1e-5)


def test_the_same_seed_gives_the_same_losses_and_leaves_the_model_as_it_was() -> None:
    opened, ids = open_model(tiny("llama")), token_ids(4, 20)
    solutions = [
        solve_layer(opened.source[index], found, A3_PLUS)
        for index, found in enumerate(moments.collect(opened, ids))
    ]

    def run(seed: int) -> dict[int, Any]:
        found = predicted_losses(
            opened, ids, {0: {"ov": [3]}, 1: {"ov": [3]}}, solutions.__getitem__,
            labels=3, seed=seed, dtype=torch.float32,
        )  # fmt: skip
        return {layer: each["ov"].losses for layer, each in found}

    before = opened.finish(*opened.start(ids), 0)
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert torch.equal(opened.finish(*opened.start(ids), 0), before)
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
