"""A model in pieces: which layers are in memory, what they compute with, and what opening changes of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allocator.plan.model.precision import LATENT
from solvers.checkpoints.written import load_written
from solvers.model.surgery import OpenModel, open_model
from solvers.weights import LayerWeights, OnDemand
from tests.support.latents import exported
from tests.support.models import case_id, tiny, token_ids

LAYERS = 5


def llama(**options: Any) -> Any:
    return tiny("llama", num_hidden_layers=LAYERS, layer_types=["full_attention"] * LAYERS, **options)


def layer_bytes(model: Any) -> int:
    """What the projections of one layer take as float32."""
    layer = model.model.layers[0]
    return 4 * sum(p.numel() for part in (layer.self_attn, layer.mlp) for p in part.parameters())


def projections(opened: OpenModel, index: int) -> list[torch.nn.Linear]:
    layer = opened.family.layers(opened.model)[index]
    return [part for part in layer.modules() if isinstance(part, torch.nn.Linear)]


def resident(opened: OpenModel) -> set[int]:
    """The layers whose projections are in memory: all of them, or none."""
    found = set()
    for index in range(len(opened.source)):
        absent = {part.weight.is_meta for part in projections(opened, index)}
        assert len(absent) == 1
        if absent == {False}:
            found.add(index)
    return found


def smaller(weights: LayerWeights) -> LayerWeights:
    """A layer with a few neurons less."""
    assert weights.gate_Dm is not None
    cut = {"up_Dm": weights.up_Dm[:, 3:], "down_mD": weights.down_mD[3:], "gate_Dm": weights.gate_Dm[:, 3:]}
    return replace(weights, **cut)


@pytest.mark.parametrize(
    ("layers", "count"), [(None, 5), (0.0, 2), (1.5, 2), (2.9, 2), (3.5, 3), (4.5, 4), (9.0, 5)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_as_many_layers_are_in_memory_as_fit_as_float32_two_at_least(
    layers: float | None, count: int, dtype: torch.dtype
) -> None:
    model = llama().to(dtype)
    memory_bytes = None if layers is None else int(layers * layer_bytes(model))
    opened, ids = open_model(model, memory_bytes=memory_bytes), token_ids(2, 9)
    assert resident(opened) == set(range(LAYERS - count, LAYERS))
    hidden, calls = opened.start(ids)
    opened.advance(hidden, calls, 0, 2)
    assert {0, 1} <= resident(opened)
    assert len(resident(opened)) == count
    whole = open_model(llama().to(dtype))
    assert torch.equal(next(opened.logits([ids])), next(whole.logits([ids])))


def of_three(**options: Any) -> OpenModel:
    """A model of which three layers are in memory, now the last ones."""
    model = llama(**options)
    return open_model(model.float(), memory_bytes=int(3.5 * layer_bytes(model)))


def test_layers_stay_that_ran_last() -> None:
    opened = of_three()
    assert resident(opened) == {2, 3, 4}
    for index, expected in ((2, {2, 3, 4}), (0, {0, 2, 4}), (2, {0, 2, 4}), (1, {0, 1, 2}), (3, {1, 2, 3})):
        assert opened.layer(index) is opened.model.model.layers[index]
        assert resident(opened) == expected


def test_changed_layers_stay_and_count() -> None:
    opened = of_three()
    opened.put(0, smaller(opened.source[0]))
    for index, expected in ((1, {0, 1, 4}), (2, {0, 1, 2}), (1, {0, 1, 2}), (3, {0, 1, 3})):
        opened.layer(index)
        assert resident(opened) == expected
    for index in (1, 2, 3):
        opened.put(index, smaller(opened.source[index]))
    opened.layer(4)
    assert resident(opened) == {0, 1, 2, 3, 4}, (
        "changed ones are never let go, and the one that runs is there"
    )
    opened.release(1)
    opened.reset(2)
    assert resident(opened) == {0, 2, 3}


def test_layers_take_turns_in_the_same_memory() -> None:
    opened = of_three(attention_bias=True)

    def places() -> set[int]:
        parts = [part for index in resident(opened) for part in projections(opened, index)]
        return {parameter.data_ptr() for part in parts for parameter in part.parameters()}

    before = places()
    assert len(before) == 3 * 14  # matrices and biases of seven projections
    for index in (0, 3, 1, 4, 2, 0):
        opened.layer(index)
        assert places() == before


def test_a_layer_has_what_it_was_given_until_it_is_reset_or_released() -> None:
    opened, ids = of_three(), token_ids(2, 9)
    (dense,) = opened.logits([ids])
    for restored in (opened.reset, opened.release):
        opened.put(1, smaller(opened.source[1]))
        (cut,) = opened.logits([ids])
        assert not torch.allclose(cut, dense, atol=1e-3)
        assert torch.equal(next(opened.logits([ids])), cut)
        opened.reset(0)  # which was given nothing
        assert torch.equal(next(opened.logits([ids])), cut)
        restored(1)
        assert torch.equal(next(opened.logits([ids])), dense)
    opened.put(1, smaller(opened.source[1]))
    opened.put(1, opened.source[1])
    assert torch.equal(next(opened.logits([ids])), dense)
    opened.reset(1)
    for _ in range(2):
        opened.release(3)
        assert 3 not in resident(opened)
        assert torch.equal(next(opened.logits([ids])), dense)


def test_an_interrupted_change_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, ids = of_three(), token_ids(2, 9)
    (dense,) = opened.logits([ids])
    put = type(opened.family).put

    def interrupted(*args: Any) -> None:
        put(opened.family, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(opened.family, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened.put(4, smaller(opened.source[4]))
    opened.reset(4)
    assert torch.equal(next(opened.logits([ids])), dense)


def test_others_take_the_place_of_the_original_layers() -> None:
    opened, ids = of_three(), token_ids(2, 9)
    (dense,), own = opened.logits([ids]), opened.source
    cuts = [smaller(layer) for layer in own]
    for index, cut in enumerate(cuts):
        opened.put(index, cut)
    (expected,) = opened.logits([ids])
    made: list[int] = []

    def make(index: int) -> LayerWeights:
        made.append(index)
        return cuts[index]

    with opened.exchanged(OnDemand(LAYERS, make)):
        assert (resident(opened), made) == (set(), []), "what a layer was given before is forgotten"
        assert torch.equal(next(opened.logits([ids])), expected)
        assert made == list(range(LAYERS))
        opened.put(0, own[0])
        opened.reset(0)
        assert torch.equal(next(opened.logits([ids])), expected)
    assert opened.source is own
    assert torch.equal(next(opened.logits([ids])), dense)
    with pytest.raises(KeyboardInterrupt), opened.exchanged(cuts):
        raise KeyboardInterrupt
    assert opened.source is own
    assert torch.equal(next(opened.logits([ids])), dense)
    opened.rebase(cuts)
    assert torch.equal(next(opened.logits([ids])), expected)


FAMILIES = [("llama", {}), ("gemma2", {}), ("gpt2", {}), ("opt", {}), ("mixtral", {}), ("gpt_neox", {})]


@torch.no_grad()
@pytest.mark.parametrize(("family", "options"), FAMILIES, ids=case_id)
def test_pieces_are_the_parts_of_the_stock_model(family: str, options: dict[str, Any]) -> None:
    """In several batches of their own lengths; the hidden states between layers are the stock model's own."""
    model, parts = tiny(family, **options), [token_ids(3, 12), token_ids(1, 20, seed=2)]
    outputs = [model(part, output_hidden_states=True) for part in parts]
    opened = open_model(model)
    hidden, calls = opened.starts(parts)
    for position in range(2):
        assert all(
            torch.allclose(states, output.hidden_states[position], atol=1e-9)
            for states, output in zip(hidden, outputs, strict=True)
        )
        rest = [opened.finish(*state, position) for state in zip(hidden, calls, strict=True)]
        assert all(logits.dtype == torch.float32 for logits in rest)
        assert all(torch.allclose(x, y.logits.float(), atol=1e-5) for x, y in zip(rest, outputs, strict=True))
        passes: list[None] = []
        opened.through(position, hidden, calls, lambda at=passes: at.append(None))
        assert len(passes) == len(parts)
    passes = []
    last = list(opened.states(parts, lambda: passes.append(None)))
    assert len(passes) == 2 * len(parts)
    assert all(torch.equal(x, y) for x, y in zip(last, hidden, strict=True))
    for logits, output in zip(opened.logits(parts), outputs, strict=True):
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, output.logits.float(), atol=1e-5)
    assert torch.equal(opened.advance(hidden[0], calls[0], 1, 1), hidden[0])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["gemma", "gemma3_text", "gpt2", "phi3"])
def test_the_model_runs_in_float32_at_least_and_its_source_stays_as_stored(
    family: str, dtype: torch.dtype
) -> None:
    """Gemma scales embeddings by a number that it rounds to its own type; here it is as exact as what it runs in."""
    model, ids = tiny(family).to(dtype), token_ids(2, 9)
    places = {parameter.data_ptr() for parameter in model.parameters()}
    model.train()
    opened = open_model(model)
    running = torch.promote_types(dtype, torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {running}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert opened.config is model.config
    assert opened.device == torch.device("cpu")
    assert all(tensor.dtype == dtype for tensor in floating(opened))
    assert sum(tensor.data_ptr() in places for tensor in floating(opened)) >= 2 * 4, "no copies"
    if family.startswith("gemma"):
        hidden, _ = opened.start(ids)
        expected = model.get_input_embeddings().weight[ids].double() * math.sqrt(24)
        assert torch.allclose(hidden.double(), expected, rtol=1e-6)


def floating(opened: OpenModel) -> Iterator[torch.Tensor]:
    for layer in opened.source:
        yield from (tensor for tensor in layer.tensors().values() if tensor.is_floating_point())


@torch.no_grad()
def test_a_compact_model_is_opened_at_the_ranks_that_it_has(tmp_path: Path) -> None:
    compact, _, layers = exported("llama", {}, tmp_path, LATENT, 2)
    model, ids = load_written(compact), token_ids(2, 9)
    expected = model(ids).logits
    opened = open_model(model, memory_bytes=1)
    for layer, written in zip(opened.source, layers, strict=True):
        assert layer.tensors().keys() == written.tensors().keys()
        assert all(torch.equal(tensor, written.tensors()[name]) for name, tensor in layer.tensors().items())
    assert torch.allclose(next(opened.logits([ids])), expected.float(), atol=1e-5)


def test_a_family_without_an_adapter_is_a_key_error() -> None:
    model = tiny("llama")
    model.config.model_type = "llama5"
    with pytest.raises(KeyError, match="llama5"):
        open_model(model)
