"""Measured losses against the textbook definitions, on a whole forward pass in float64."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from allocator.profiling import logits
from allocator.profiling.divergence import DenseDistribution, kl_and_agreement, kl_to_dense
from allocator.profiling.likelihood import nll_nats, nll_per_window
from allocator.profiling.measure import Variant, measure_layer
from allocator.profiling.reference import References
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.model.surgery import open_model
from tests.support.models import tiny, token_ids


@pytest.mark.parametrize("offset", [0.0, -100.0])
@pytest.mark.parametrize("size", [3e-4, 1e-2, 1.0])
def test_kl_in_float32_is_right_for_losses_far_below_float32_s_rounding(offset: float, size: float) -> None:
    """True values here go down to 5e-8 nats; the textbook sum would be off by 2e-6."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(4, 64, 2000, generator=generator) * 3 + offset
    two = one + size * torch.randn(4, 64, 2000, generator=generator)
    p, q = one.double().log_softmax(-1), two.double().log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).mean(-1)
    found = DenseDistribution(one).kl_per_window(two)
    assert torch.allclose(found, expected, rtol=0.02)


def test_kl_of_distributions_that_hardly_overlap_is_finite_and_right() -> None:
    one, two = torch.full((1, 1, 3), -200.0), torch.full((1, 1, 3), -200.0)
    one[..., 0], two[..., 1] = 0.0, 0.0
    assert DenseDistribution(one).kl_per_window(two).item() == pytest.approx(200.0, rel=1e-5)
    assert DenseDistribution(two).kl_per_window(one).item() == pytest.approx(200.0, rel=1e-5)


def test_kl_is_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(3, 7, 50, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    p, q = one.softmax(-1), two.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean(-1)
    assert torch.allclose(DenseDistribution(one).kl_per_window(two), expected, atol=1e-12)
    assert torch.allclose(
        DenseDistribution(one.float()).kl_per_window(one.float()), torch.zeros(3).double(), atol=1e-6
    )


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_kl_does_not_depend_on_how_many_rows_are_compared_at_once(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far and near rows side by side: expm1 overflows at every fifth alone."""
    monkeypatch.setattr(logits, "_CACHED_BYTES", rows * 50 * 8)
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(3, 7, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    two[..., ::5, :] *= 300
    p, q = one.log_softmax(-1), two.log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1)
    before = one.clone(), two.clone()
    found = DenseDistribution(one).kl(two)
    assert torch.allclose(found, expected, rtol=1e-10)
    assert expected.max() > 100 > 3 > expected.min()
    assert torch.equal(one, before[0])
    assert torch.equal(two, before[1]), "logits are the caller's"


@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_likelihood_does_not_depend_on_how_many_logits_are_computed_at_once(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "_HEAD_TOKENS", tokens)
    monkeypatch.setattr(logits, "_CACHED_BYTES", 3 * 61 * 4)
    ids = token_ids(4, 20)
    with torch.no_grad():
        log_p = tiny("llama")(ids).logits.double().log_softmax(-1)[:, :-1]
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean((1, 2))
    opened = open_model(tiny("llama"))
    found = nll_per_window(opened, ids, 61, prefix=1, tick=lambda: None)
    assert found == pytest.approx(expected.tolist(), rel=1e-5)


def test_agreement_is_the_share_of_positions_with_the_same_most_likely_token() -> None:
    ids = token_ids(4, 20)
    opened, cut = open_model(tiny("llama")), open_model(tiny("llama"))
    cut.put(0, solve_layer(cut.source[0], moments.collect(cut, ids)[0]).compressed(qk=2, ov=2, mlp=5))
    states = next(opened.states([ids])), next(cut.states([ids]))
    kl, same = kl_and_agreement(opened, states[0], cut, states[1])
    one, two = opened.head(states[0]).double(), cut.head(states[1]).double()
    p, q = one.log_softmax(-1), two.log_softmax(-1)
    assert torch.allclose(kl, (p.exp() * (p - q)).sum(-1).mean(-1), rtol=1e-3)
    expected = (one.topk(1).indices == two.topk(1).indices).double().mean((1, 2))
    assert torch.equal(same, expected)
    assert 0 < same.min() < same.max() < 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1])
def test_restarted_passes_equal_whole_ones(family: str, layer: int) -> None:
    """The loss of a variant is the KL of the whole cut model to the stock model."""
    ids = token_ids(5, 30)
    opened, stock = open_model(tiny(family)), tiny(family)
    solution = solve_layer(opened.source[layer], moments.collect(opened, ids)[layer])
    variants = [
        Variant("qk", 4, solution.compressed(qk=4)),
        Variant("ov", 2, solution.compressed(ov=2)),
        Variant("mlp", 11, solution.compressed(mlp=11)),
    ]
    passes: list[None] = []
    heads: list[float] = []
    blocks = {0: (ids, variants), 7: (ids[:2], variants[1:])}
    measured = measure_layer(opened, layer, blocks, lambda: passes.append(None), on_head=heads.append)
    # The reference through both layers, each variant from its layer on.
    assert len(passes) == sum(2 + cuts * (2 - layer) for cuts in (3, 2))
    assert sum(heads) == 5 * (1 + 3) + 2 * (1 + 2)
    assert measured[7] == measure_layer(opened, layer, {3: (ids[:2], variants[1:])})[3]
    with torch.no_grad():
        assert torch.allclose(opened.model(ids).logits, stock(ids).logits, atol=1e-10), (
            "the layer was put back"
        )
    for variant, per_window in zip(variants, measured[0], strict=True):
        opened.put(layer, variant.weights)
        with torch.no_grad():
            p, q = stock(ids).logits.log_softmax(-1), opened.model(ids).logits.log_softmax(-1)
        expected = float((p.exp() * (p - q)).sum(-1).mean())
        assert len(per_window) == len(ids)
        assert fmean(per_window) == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert kl_to_dense(stock, opened.model, ids, 61, lambda: None)[0] == pytest.approx(
            expected, rel=1e-3, abs=1e-6
        )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1])
def test_around_a_plan_everything_else_is_cut_too(family: str, layer: int) -> None:
    """The loss of a variant is the KL of the whole model, all of whose layers are cut, to the stock model."""
    ids, ranks = token_ids(5, 30), {"qk": 6, "ov": 5, "mlp": 20}
    opened, stock = open_model(tiny(family)), tiny(family)
    found = moments.collect(opened, ids)
    solutions = [solve_layer(opened.source[index], each) for index, each in enumerate(found)]
    around = [solution.compressed(**ranks) for solution in solutions]
    variant = Variant("ov", 2, solutions[layer].compressed(**{**ranks, "ov": 2}))
    passes: list[None] = []
    measured = measure_layer(
        opened,
        layer,
        {0: (ids, [variant])},
        lambda: passes.append(None),
        surroundings=lambda index: around[index],
    )
    assert len(passes) == 2 + layer + (2 - layer)
    with torch.no_grad():
        assert torch.allclose(opened.model(ids).logits, stock(ids).logits, atol=1e-10), (
            "all layers are dense again"
        )
        for index, weights in enumerate(around):
            opened.put(index, variant.weights if index == layer else weights)
        p, q = stock(ids).logits.log_softmax(-1), opened.model(ids).logits.log_softmax(-1)
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert fmean(measured[0][0]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
def test_likelihood_is_cross_entropy_of_the_next_token(prefix: int) -> None:
    model, ids = tiny("llama"), token_ids(4, 20)
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    assert nll_nats(model, ids, 61, prefix=prefix, tick=lambda: None) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_the_dense_model_runs_once_for_all_layers_and_no_number_depends_on_it(order: tuple[int, int]) -> None:
    """The same floats as measured alone, whichever layer came before; the passes are those that were stated."""
    blocks_ids = {0: token_ids(5, 30), 1: token_ids(3, 30)}
    opened = open_model(tiny("llama"))
    solutions = [
        solve_layer(opened.source[index], own)
        for index, own in enumerate(moments.collect(opened, blocks_ids[0]))
    ]
    references = References()
    for number, layer in enumerate(order):
        variants = [
            Variant("ov", 2, solutions[layer].compressed(ov=2)),
            Variant("mlp", 11, solutions[layer].compressed(mlp=11)),
        ]
        blocks = {block: (ids, variants) for block, ids in blocks_ids.items()}
        stated = [references.passes(ids, layer, 2) for ids in blocks_ids.values()]
        passes: list[None] = []
        shared = measure_layer(
            opened, layer, blocks, lambda passes=passes: passes.append(None), references=references
        )
        assert shared == measure_layer(opened, layer, blocks)
        # All of it for the first; then on from where that layer was, or from the start where it lies behind.
        dense = 2 if number == 0 else layer - order[0] if layer >= order[0] else layer
        assert stated == [dense, dense]
        assert len(passes) == 2 * dense + 2 * 2 * (2 - layer)


def test_around_a_plan_the_dense_model_runs_once_too() -> None:
    ids, ranks = token_ids(5, 30), {"qk": 6, "ov": 5, "mlp": 20}
    opened = open_model(tiny("llama"))
    found = moments.collect(opened, ids)
    around = [solve_layer(opened.source[index], own).compressed(**ranks) for index, own in enumerate(found)]
    references, passes = References(), []
    for layer in (0, 1):
        cut = Variant(
            "ov", 2, solve_layer(opened.source[layer], found[layer]).compressed(**{**ranks, "ov": 2})
        )
        blocks = {0: (ids, [cut])}
        shared = measure_layer(
            opened,
            layer,
            blocks,
            lambda: passes.append(None),
            surroundings=around.__getitem__,
            references=references,
        )
        assert shared == measure_layer(opened, layer, blocks, surroundings=around.__getitem__)
    # Layer 0: both dense, both cut. Layer 1: one dense layer to get there, the plan's first, the cut one.
    assert len(passes) == (2 + 2) + (1 + 1 + 1)


def test_a_measurement_that_was_interrupted_leaves_references_that_hold() -> None:
    ids = token_ids(5, 30)
    opened = open_model(tiny("llama"))
    solution = solve_layer(opened.source[1], moments.collect(opened, ids)[1])
    blocks = {0: (ids, [Variant("mlp", 11, solution.compressed(mlp=11))])}
    expected = measure_layer(opened, 1, blocks)
    for allowed in range(3):
        references, passes = References(), iter([None] * allowed)
        with pytest.raises(StopIteration):
            measure_layer(opened, 1, blocks, lambda passes=passes: next(passes), references=references)
        assert measure_layer(opened, 1, blocks, references=references) == expected


def test_references_hold_as_many_tokens_as_an_effort_measures_on() -> None:
    opened, references = open_model(tiny("llama")), References()
    windows = token_ids(16, 64).repeat(24, 1)  # 24,576 tokens
    windows[:, 0] = torch.arange(len(windows)) % 61
    windows[:, 1] = torch.arange(len(windows)) // 61
    parts = windows.split(64)
    for part in parts:
        references.of(opened, part).last = part
    assert [references.passes(part, 0, 2) for part in parts] == [0] * len(parts)
    references.of(opened, token_ids(1, 64)).last = token_ids(1, 64)
    assert [references.passes(part, 0, 2) for part in parts] == [2] + [0] * (len(parts) - 1)


def test_last_states_are_those_of_a_whole_run_and_are_run_once() -> None:
    opened, references = open_model(tiny("llama")), References()
    one, two = token_ids(4, 30), token_ids(3, 30)
    expected = list(opened.states([one, two]))
    passes: list[None] = []
    assert torch.equal(references.last(opened, [two], lambda: passes.append(None))[0], expected[1])
    assert len(passes) == 2
    for _ in range(2):
        # What is held counts as run, so that progress ends where it was stated to.
        passes.clear()
        found = references.last(opened, [one, two], lambda: passes.append(None))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        assert len(passes) == 2 * 2
    opened.advance = None  # type: ignore[assignment, method-assign]
    assert len(references.last(opened, [one, two], lambda: None)) == 2
