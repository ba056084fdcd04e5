"""Measured losses against the textbook definitions, on a whole forward pass in float64."""

from __future__ import annotations

import pytest
import torch

from allocator.profiling.measure import Reference, Variant, kl_to_dense, measure_layer, nll_nats
from solvers import moments
from solvers.compress import solve_layer
from solvers.surgery import open_model
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
    found = Reference(one).kl_per_window(two)
    assert torch.allclose(found, expected, rtol=0.02)


def test_kl_of_distributions_that_hardly_overlap_is_finite_and_right() -> None:
    one, two = torch.full((1, 1, 3), -200.0), torch.full((1, 1, 3), -200.0)
    one[..., 0], two[..., 1] = 0.0, 0.0
    assert Reference(one).kl_per_window(two).item() == pytest.approx(200.0, rel=1e-5)
    assert Reference(two).kl_per_window(one).item() == pytest.approx(200.0, rel=1e-5)


def test_kl_is_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(3, 7, 50, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    p, q = one.softmax(-1), two.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean(-1)
    assert torch.allclose(Reference(one).kl_per_window(two), expected, atol=1e-12)
    assert torch.allclose(
        Reference(one.float()).kl_per_window(one.float()), torch.zeros(3).double(), atol=1e-6
    )


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
    passes: list[tuple[int, int]] = []
    measured = measure_layer(opened, layer, variants, ids, lambda done, total: passes.append((done, total)))
    assert passes[-1][0] == passes[-1][1] == len(passes)
    with torch.no_grad():
        assert torch.allclose(opened.model(ids).logits, stock(ids).logits, atol=1e-10), (
            "the layer was put back"
        )
    for variant in variants:
        opened.put(layer, variant.weights)
        with torch.no_grad():
            p, q = stock(ids).logits.log_softmax(-1), opened.model(ids).logits.log_softmax(-1)
        expected = float((p.exp() * (p - q)).sum(-1).mean())
        (point,) = measured[variant.component]
        assert point.rank == variant.rank
        assert point.loss_nats == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert kl_to_dense(stock, opened.model, ids, 61, lambda: None)[0] == pytest.approx(
            expected, rel=1e-3, abs=1e-6
        )


@pytest.mark.parametrize("prefix", [0, 1])
def test_likelihood_is_cross_entropy_of_the_next_token(prefix: int) -> None:
    model, ids = tiny("llama"), token_ids(4, 20)
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    assert nll_nats(model, ids, 61, prefix=prefix, tick=lambda: None) == pytest.approx(expected, rel=1e-5)
