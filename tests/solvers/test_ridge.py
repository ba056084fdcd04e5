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
    sums, folds = Ridge(start, offset), []
    for fold, count in enumerate(counts):
        inputs = normal(count, size) * torch.logspace(0, -2, size, dtype=torch.float64) + 0.3
        targets = inputs @ (start + change) + noise * normal(count, wide) + 1
        for some in torch.arange(count).chunk(parts):
            sums.add(inputs[some][None], targets[some][None], fold)  # one window
        folds.append((with_intercept(inputs) if bias else inputs, targets))
    whole = start if offset is None else torch.cat([start, offset[None]])
    weights, found_offset, record = sums.fit()
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
    start = torch.zeros(30, 30, dtype=torch.float64)
    sums, generator = Ridge(start, None), torch.Generator().manual_seed(0)
    inputs, noise = (torch.randn(40, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    for fold, sign in ((0, 1), (1, -1)):
        sums.add(inputs, sign * noise, fold)
    weights, bias, record = sums.fit()
    assert weights is start
    assert bias is None
    assert record == Refit(None, 1.0)


def test_nothing_is_gained_where_nothing_is_missing() -> None:
    """Weights without any error, beside a bias: they stay, to the last bit."""
    start, bias = torch.ones(3, 2).double(), torch.full((2,), 3.0).double()
    sums = Ridge(start, bias)
    for fold in (0, 1):
        sums.add(torch.eye(3).double(), torch.full((3, 2), 4.0).double(), fold)
    weights, offset, record = sums.fit()
    assert offset is not None
    assert (weights.tolist(), offset.tolist(), record) == (start.tolist(), bias.tolist(), Refit(None, 1.0))


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0, 3.0, -0.5, -1.5, -3.0])
def test_by_hand(shift: float) -> None:
    """One input, always 1; five targets of 1, in the other fold six of 1 + d; weights of 0. Targets of t teach t / (1 + λ)."""
    sums, other = Ridge(torch.zeros(1, 1).double(), None), 1 + shift
    for fold, (count, target) in enumerate(((5, 1.0), (6, other))):
        sums.add(torch.ones(count, 1).double(), torch.full((count, 1), target).double(), fold)
    kept = {None: 0.0, **{share: 1 / (1 + share) for share in SHARES}}
    errors = {share: 5 * (1 - other * part) ** 2 + 6 * (other - part) ** 2 for share, part in kept.items()}
    best = min(errors, key=lambda share: errors[share])
    weights, _, record = sums.fit()
    assert record.share == best
    assert record.error_ratio == pytest.approx(errors[best] / (5 + 6 * other**2))
    assert weights.item() == pytest.approx((5 + 6 * other) / 11 * kept[best])


def test_products_of_float32_are_summed_in_float64() -> None:
    """4096² = 2^24, then ones: sums in float32 would lose each of the ones."""
    sums = Ridge(torch.zeros(1, 1).double(), None)
    for fold in (0, 1):
        for value, target in ((4096.0, 0.0), *[(1.0, 1.0)] * 64):
            sums.add(torch.full((1, 1), value), torch.full((1, 1), target), fold)
    weights, _, record = sums.fit()
    assert record.share == SHARES[0]
    assert weights.item() == pytest.approx(64 / (2**24 + 64) / (1 + SHARES[0]), rel=1e-12)


@pytest.mark.parametrize("missing", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("bias", [False, True])
def test_a_small_part_of_targets_in_float32_is_judged_as_well_as_a_large_one(
    bias: bool, missing: float
) -> None:
    """Its square is a hundred-millionth of the targets', which sums in float32 do not know."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start, offset, change = normal(40, 8), normal(8) if bias else None, missing * normal(40, 8)
    whole = start if offset is None else torch.cat([start, offset[None]])
    sums, folds = Ridge(start, offset), []
    for fold in (0, 1):
        inputs = normal(300, 40) + 1
        rows = with_intercept(inputs) if bias else inputs
        targets = rows @ whole + inputs @ change + 6 * missing * normal(300, 8)
        sums.add(inputs.float(), targets.float(), fold)
        folds.append((rows, targets))
    _, _, record = sums.fit()
    errors = held_out_errors((folds[0], folds[1]), whole)
    assert 0.3 < record.error_ratio < 0.8
    assert record.error_ratio == pytest.approx(min(errors.values()) / errors[None], rel=0.01)


def test_no_error_is_negative() -> None:
    """Targets that weights reach but for rounding, which is of either sign."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(40, 8, generator=generator, dtype=torch.float64)
        for change in (0.0, 1.0):
            sums = Ridge(start, None)
            for fold in (0, 1):
                inputs = torch.randn(500, 40, generator=generator) + 1
                sums.add(inputs, (inputs.double() @ (start + change)).float(), fold)
            weights, _, record = sums.fit()
            assert 0 <= record.error_ratio <= 1
            assert torch.allclose(weights, start + change, atol=0.05 * change + 1e-6)
