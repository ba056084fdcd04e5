"""Ridge regression around given weights, and what cross-validation chooses, against least squares on the tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.a3.ridge import SHARES, Refit, Ridge
from tests.support.ridge import held_out_errors, ridge, stacked, with_intercept


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 6),
    wide=st.integers(1, 3),
    counts=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    parts=st.integers(1, 3),
    noise=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    bias=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_choice_and_weights_are_those_of_least_squares_on_the_tokens(
    size: int, wide: int, counts: tuple[int, int], parts: int, noise: float, bias: bool, seed: int
) -> None:
    """Folds of unequal size, in several parts, with fewer rows than inputs too."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start, offset, change = normal(size, wide), normal(wide) if bias else None, normal(size, wide)
    sums, folds = Ridge(intercept=bias), []
    for fold, count in enumerate(counts):
        inputs = normal(count, size) * torch.logspace(0, -2, size, dtype=torch.float64) + 0.3
        targets = inputs @ (start + change) + noise * normal(count, wide) + 1
        for some in torch.arange(count).chunk(parts):
            sums.add(inputs[some][None], targets[some][None], fold)  # one window
        folds.append((with_intercept(inputs) if bias else inputs, targets))
    whole = start if offset is None else torch.cat([start, offset[None]])
    weights, found_offset, record = sums.fit(start, offset)
    errors = held_out_errors((folds[0], folds[1]), whole)
    least = min(errors.values())
    assert record.error_ratio == pytest.approx(least / errors[None], rel=1e-6)
    assert errors[record.share] <= least * (1 + 1e-6)
    ours = weights if found_offset is None else torch.cat([weights, found_offset[None]])
    assert (found_offset is None) != bias
    expected = ridge(stacked(folds), whole, record.share)
    assert torch.allclose(ours, expected, atol=1e-7 * float(expected.abs().max()))


def test_cross_validation_keeps_the_weights_where_a_fit_only_learns_noise() -> None:
    """Targets of opposite sign in the two folds: what one teaches is wrong in the other, so the weights stay."""
    sums = Ridge(intercept=False)
    generator = torch.Generator().manual_seed(0)
    inputs, noise = (torch.randn(40, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    for fold, sign in ((0, 1), (1, -1)):
        sums.add(inputs, sign * noise, fold)
    start = torch.zeros(30, 30, dtype=torch.float64)
    weights, bias, record = sums.fit(start, None)
    assert weights is start
    assert bias is None
    assert record == Refit(None, 1.0)


def test_nothing_is_gained_where_nothing_is_missing() -> None:
    """Weights without any error, beside a bias: they stay, to the last bit."""
    sums, start, bias = Ridge(intercept=True), torch.zeros(3, 2).double(), torch.zeros(2).double()
    for fold in (0, 1):
        sums.add(torch.eye(3).double(), torch.zeros(3, 2).double(), fold)
    weights, offset, record = sums.fit(start, bias)
    assert (weights.tolist(), offset.tolist(), record) == (start.tolist(), bias.tolist(), Refit(None, 1.0))


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0, 3.0, -0.5, -1.5, -3.0])
def test_by_hand(shift: float) -> None:
    """One input, always 1; five targets of 1, in the other fold six of 1 + d; weights of 0. Targets of t teach t / (1 + λ)."""
    sums, other = Ridge(intercept=False), 1 + shift
    for fold, (count, target) in enumerate(((5, 1.0), (6, other))):
        sums.add(torch.ones(count, 1).double(), torch.full((count, 1), target).double(), fold)
    kept = {None: 0.0, **{share: 1 / (1 + share) for share in SHARES}}
    errors = {share: 5 * (1 - other * part) ** 2 + 6 * (other - part) ** 2 for share, part in kept.items()}
    best = min(errors, key=lambda share: errors[share])
    weights, _, record = sums.fit(torch.zeros(1, 1).double(), None)
    assert record.share == best
    assert record.error_ratio == pytest.approx(errors[best] / (5 + 6 * other**2))
    assert weights.item() == pytest.approx((5 + 6 * other) / 11 * kept[best])


def test_products_of_float32_are_summed_in_float64() -> None:
    """4096² = 2^24, then ones: sums in float32 would lose each of the ones."""
    sums = Ridge(intercept=False)
    for fold in (0, 1):
        for value, target in ((4096.0, 0.0), *[(1.0, 1.0)] * 64):
            sums.add(torch.full((1, 1), value), torch.full((1, 1), target), fold)
    weights, _, record = sums.fit(torch.zeros(1, 1).double(), None)
    assert record.share == SHARES[0]
    assert weights.item() == pytest.approx(64 / (2**24 + 64) / (1 + SHARES[0]), rel=1e-12)
