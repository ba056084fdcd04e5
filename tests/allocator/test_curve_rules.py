"""The rules by which curves are made of measured points, each against numbers by hand or a plain interpolation of numpy's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.plan.curves.measured import build_curve, build_quantized, with_quantized
from allocator.plan.documents.curve import Curve
from tests.support.profiles import SMALL, point_of

RANKS = [1, 2, 3, 4, 5, 6, 7, 8]


def losses_of(curve: Curve) -> list[float]:
    return list(curve.loss_nats)


@given(
    st.lists(st.floats(0.05, 3), min_size=8, max_size=8),
    st.sets(st.sampled_from(RANKS[1:-1]), max_size=4),
    st.lists(st.floats(0.05, 3), min_size=8, max_size=8),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_between_measured_ranks_logarithms_lie_on_lines_and_above_them_losses_are_proportional(
    steps: list[float], inner: set[int], drops: list[float], random: object
) -> None:
    """Where both fall."""
    heights = np.exp(np.cumsum(steps[::-1])[::-1])
    analytic = [*heights[:-1], 0.0]
    chosen = sorted({1, *inner})
    loss = dict(zip(chosen, np.exp(-np.cumsum(drops)), strict=False))
    points = [point_of(rank, loss[rank], 0.01) for rank in chosen]
    random.shuffle(points)  # type: ignore[attr-defined]
    curve = build_curve(4, "ov", RANKS, analytic, points)
    logs, last = np.log(heights), chosen[-1]
    along = np.interp(-logs[:last], [-logs[r - 1] for r in chosen], [math.log(loss[r]) for r in chosen])
    beyond = [loss[last] * heights[rank - 1] / heights[last - 1] for rank in range(last + 1, 8)]
    assert losses_of(curve) == pytest.approx([*np.exp(along), *beyond, 0.0], rel=1e-9)
    assert [point.rank for point in curve.measured] == chosen
    assert (curve.layer, curve.component, curve.full_rank) == (4, "ov", 8)
    assert (curve.ranks, curve.analytic) == (tuple(RANKS), tuple(analytic))


def test_where_the_analytic_loss_is_flat_the_rank_is_the_ruler() -> None:
    points = [point_of(1, 0.16, 0.01), point_of(5, 0.01, 0.01)]
    curve = build_curve(0, "mlp", RANKS, [4.0] * 7 + [0.0], points)
    # A sixteenth over four ranks: a half for each.
    assert losses_of(curve) == pytest.approx([0.16, 0.08, 0.04, 0.02, 0.01, 0.01, 0.01, 0.0], rel=1e-9)


def test_every_flat_piece_is_measured_from_its_own_start() -> None:
    points = [point_of(1, 0.8, 0.01), point_of(3, 0.16, 0.01), point_of(7, 0.01, 0.01)]
    curve = build_curve(0, "mlp", RANKS, [4.0] * 7 + [0.0], points)
    assert losses_of(curve)[2:] == pytest.approx([0.16, 0.08, 0.04, 0.02, 0.01, 0.0], rel=1e-9)


@pytest.mark.parametrize("unit", [1e-40, 1e40])
def test_the_unit_of_the_analytic_loss_is_of_no_account(unit: float) -> None:
    points = [point_of(1, 0.8, 0.01), point_of(4, 0.1, 0.01)]
    heights = [8.0, 5.0, 3.0, 1.0, 0.5, 0.4, 0.3, 0.0]
    one, other = (build_curve(0, "mlp", RANKS, [k * a for a in heights], points) for k in (1.0, unit))
    assert losses_of(one) == pytest.approx(losses_of(other), rel=1e-9)


def test_two_ranks_are_a_curve_already() -> None:
    assert losses_of(build_curve(0, "qk", [8, 16], [1.0, 0.0], [point_of(8, 0.3, 0.01)])) == [0.3, 0.0]


def test_an_analytic_loss_that_rises_lifts_no_loss() -> None:
    """Beyond both ends of a piece, and above the last measured rank."""
    points = [point_of(1, 0.8, 0.01), point_of(4, 0.1, 0.01)]
    curve = build_curve(0, "mlp", RANKS, [8.0, 9.0, 0.5, 1.0, 2.0, 0.5, 0.25, 0.0], points)
    assert losses_of(curve) == pytest.approx([0.8, 0.8, 0.1, 0.1, 0.1, 0.05, 0.025, 0.0], rel=1e-9)
    # Where it rises from the one to the other the rank is the ruler again.
    curve = build_curve(0, "mlp", RANKS, [8.0, 1.0, 9.0, 9.0, 2.0, 0.5, 0.25, 0.0], points)
    assert losses_of(curve)[:4] == pytest.approx([0.8, 0.4, 0.2, 0.1], rel=1e-9)


def test_a_loss_of_nothing_is_reached_through_the_smallest_that_counts() -> None:
    points = [point_of(1, 1.0, 0.01), point_of(3, 0.0, 0.01)]
    curve = build_curve(0, "qk", RANKS, [4.0, 2.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0], points)
    assert losses_of(curve)[:3] == pytest.approx([1.0, 1e-6, 0.5e-12], rel=1e-9)
    assert curve.repairs == ()


def test_analytic_losses_of_nothing_at_all_leave_the_rank_as_the_ruler() -> None:
    curve = build_curve(0, "qk", [1, 2, 3, 4], [0.0] * 4, [point_of(1, 0.4, 0.01), point_of(3, 0.1, 0.01)])
    assert losses_of(curve) == pytest.approx([0.4, 0.2, 0.1, 0.0])


@pytest.mark.parametrize(
    ("points", "used", "moved"),
    [
        # Weights 100 and 25: (20 + 10) / 125.
        ([(1, 0.2, 0.1), (2, 0.4, 0.2), (3, 0.1, 0.1)], [0.24, 0.24, 0.1], [1, 2]),
        ([(1, 0.2, 0.0), (2, 0.4, 0.0), (3, 0.3, 0.0)], [0.3, 0.3, 0.3], [1, 2]),
        # A hundredth of the error weighs ten thousand times: (20 + 300,000) / 1,000,100.
        ([(1, 0.5, 0.1), (2, 0.2, 0.1), (3, 0.3, 0.001)], [0.5, *[300_020 / 1_000_100] * 2], [2, 3]),
        ([(1, 0.5, 0.1), (2, -0.1, 0.1), (3, 0.0, 0.1)], [0.5, 0.0, 0.0], [2]),
        ([(1, 0.5, 0.1), (2, 0.5, 0.1), (3, 0.1, 0.1)], [0.5, 0.5, 0.1], []),
    ],
)
def test_losses_that_rise_are_pooled_by_their_errors_and_recorded(
    points: Sequence[tuple[int, float, float]], used: list[float], moved: list[int]
) -> None:
    measured = [point_of(*point) for point in points]
    curve = build_curve(0, "qk", [1, 2, 3, 4], [4.0, 2.0, 1.0, 0.0], measured)
    assert losses_of(curve) == pytest.approx([*used, 0.0], rel=1e-9)
    assert [repair.rank for repair in curve.repairs] == moved
    before = {rank: loss for rank, loss, _ in points}
    for repair in curve.repairs:
        assert repair.measured_nats == before[repair.rank]
        assert repair.used_nats == pytest.approx(used[repair.rank - 1], rel=1e-9)
    assert curve.measured == tuple(measured), "as they were measured"


def test_ends_that_were_not_measured_are_refused_by_name() -> None:
    for points in ([], [point_of(2, 0.1, 0.01)]):
        with pytest.raises(ValueError, match=r"^layer 3 mlp: rank 1 must be among the measured ranks$"):
            build_curve(3, "mlp", [1, 2, 3], [3.0, 1.0, 0.0], points)
    with pytest.raises(ValueError, match=r"^layer 3 mlp: rank 8 must be among the measured ranks$"):
        build_curve(3, "mlp", [8, 16], [1.0, 0.0], [])
    alone = build_curve(3, "qk", [64], [0.0], [])
    assert (alone.ranks, alone.loss_nats, alone.full_rank, alone.held_out) == ((64,), (0.0,), 64, ())
    curve = quarter_curve()
    for points in ([], [point_of(8, 0.4, 0.01)], [point_of(16, 0.1, 0.01), point_of(32, 0.1, 0.01)]):
        with pytest.raises(ValueError, match=r"^layer 2 qk: ranks 8 and 32 must be measured in 4 bits$"):
            build_quantized(curve, 4, [8, 16, 24, 32], points)


def quarter_curve() -> Curve:
    points = [point_of(rank, loss, 1e-4) for rank, loss in ((8, 0.4), (16, 0.2), (24, 0.1))]
    return build_curve(2, "qk", [8, 16, 24, 32], [4.0, 2.0, 1.0, 0.0], points)


def test_rounding_adds_to_the_curve_what_was_measured_and_a_line_between() -> None:
    points = [point_of(32, 0.03, 0.1), point_of(16, 0.21, 0.1), point_of(8, 0.43, 0.1)]
    fewer = build_quantized(quarter_curve(), 8, [8, 16, 24, 32], points)
    # 0.03, 0.01 and 0.03 are added, and halfway 0.02.
    assert fewer.loss_nats == pytest.approx((0.43, 0.21, 0.12, 0.03), rel=1e-9)
    assert [point.rank for point in fewer.measured] == [8, 16, 32]
    assert (fewer.ranks, fewer.repairs) == ((8, 16, 24, 32), ())


def test_rounding_that_gains_goes_no_lower_than_nothing_and_never_rises() -> None:
    points = [point_of(8, 0.1, 0.1), point_of(32, 0.0, 0.1)]
    # -0.3 at the first, -0.2 and -0.1 between: nothing is left of either.
    fewer = build_quantized(quarter_curve(), 8, [8, 16, 24, 32], points)
    assert fewer.loss_nats == pytest.approx((0.1, 0.0, 0.0, 0.0), abs=1e-12)
    points = [point_of(8, 0.1, 0.1), point_of(16, 0.3, 0.1), point_of(32, 0.25, 0.1)]
    fewer = build_quantized(quarter_curve(), 8, [8, 16, 24, 32], points)
    # The three are pooled, of equal weight: first two 0.2, then all 0.65 / 3; between them the sum is higher.
    assert fewer.loss_nats[-1] == pytest.approx(0.65 / 3)
    assert [repair.rank for repair in fewer.repairs] == [8, 16, 32]
    assert list(fewer.loss_nats) == sorted(fewer.loss_nats, reverse=True)
    # 0.01 + 0.1 halfway between what is added at 16, 0.2, and at 32, 0.15.
    points = [point_of(8, 0.9, 0.1), point_of(16, 0.4, 0.1), point_of(32, 0.15, 0.1)]
    fewer = build_quantized(quarter_curve(), 8, [8, 16, 24, 32], points)
    assert fewer.loss_nats == pytest.approx((0.9, 0.4, 0.1 + 0.175, 0.15))


def test_a_sum_that_rises_in_earnest_lifts_what_is_before_it() -> None:
    """A curve that stays high and then falls, and rounding that adds 0.4 at the end."""
    points = [point_of(rank, loss, 1e-4) for rank, loss in ((8, 0.4), (16, 0.39), (24, 0.38))]
    curve = build_curve(0, "qk", [8, 16, 24, 32], [4.0, 2.0, 1.0, 0.0], points)
    fewer = build_quantized(curve, 4, [8, 16, 24, 32], [point_of(8, 0.4, 0.1), point_of(32, 0.4, 0.1)])
    assert fewer.loss_nats == pytest.approx((*[0.38 + 0.8 / 3] * 3, 0.4))


def test_a_sum_that_ends_a_bit_above_a_measured_loss_does_not_lift_it() -> None:
    """What falls and what rises by as much make a flat line, but for rounding."""
    curve = build_curve(
        0, "ov", [1, 2, 3, 4], [3.0, 2.0, 1.0, 0.0], [point_of(1, 0.3, 0.1), point_of(3, 0.1, 0.1)]
    )
    for loss in np.linspace(0.3, 3.0, 300):
        points = [point_of(1, float(loss), 0.1), point_of(4, float(loss), 0.1)]
        fewer = build_quantized(curve, 8, [1, 2, 3, 4], points)
        assert (fewer.loss_nats[0], fewer.loss_nats[3]) == (loss, loss)
        assert fewer.loss_nats == pytest.approx([loss] * 4, rel=1e-12)


def test_a_curve_is_given_those_of_the_bits_that_were_measured() -> None:
    curve = build_curve(
        0, "ov", SMALL.candidate_ranks("ov"), [16.0 - r for r in range(1, 17)], [point_of(1, 0.4, 0.1)]
    )
    ends = [point_of(1, 0.5, 0.1), point_of(16, 0.1, 0.1)]
    four = [point_of(8, 0.6, 0.1), point_of(16, 0.3, 0.1)]
    both = with_quantized(curve, SMALL, {4: four, 8: ends})
    assert list(both.quantized) == ["8", "4"]
    assert both.quantized["8"] == build_quantized(curve, 8, range(1, 17), ends)
    assert both.quantized["4"] == build_quantized(curve, 4, [8, 16], four)
    assert list(with_quantized(curve, SMALL, {4: (), 8: ends}).quantized) == ["8"]
    assert with_quantized(curve, SMALL, {4: ()}) == curve
    assert both.replaced(quantized={}) == curve
