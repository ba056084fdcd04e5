"""Curves: exact at the measured ranks, monotone, zero at the full rank, right on a law that is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from allocator.plan.curves.measured import build_curve
from allocator.plan.documents.curve import Curve
from allocator.plan.effort import measured_ranks
from tests.support.profiles import point_of


def test_a_power_law_between_analytic_and_measured_loss_is_recovered() -> None:
    ranks = list(range(1, 33))
    analytic = [float((33 - r) ** 2.5) if r < 32 else 0.0 for r in ranks]
    truth = [0.003 * a**0.9 for a in analytic]
    chosen = measured_ranks(ranks, 5)
    curve = build_curve(0, "ov", ranks, analytic, [point_of(r, truth[r - 1], 1e-6) for r in chosen])
    inside = [r for r in ranks if r <= chosen[-1]]
    assert np.allclose([curve.loss_at(r) for r in inside], [truth[r - 1] for r in inside], rtol=1e-9)
    assert curve.loss_at(32) == 0.0
    assert curve.repairs == ()


@example([5.408105059127838e-294] * 2, [0.0] * 12)
@given(
    st.lists(st.floats(0, 10), min_size=2, max_size=8),
    st.lists(st.floats(0, 100), min_size=12, max_size=12),
)
def test_monotone_nonnegative_and_every_repair_recorded(losses: list[float], analytic: list[float]) -> None:
    ranks = list(range(2, 28, 2))
    chosen = measured_ranks(ranks, len(losses))
    points = [point_of(r, loss, 0.01) for r, loss in zip(chosen, losses, strict=False)]
    curve = build_curve(3, "qk", ranks, [*sorted(analytic, reverse=True), 0.0], points)
    assert curve.loss_nats[-1] == 0.0
    assert all(a >= b >= 0 for a, b in itertools.pairwise(curve.loss_nats))
    moved = {repair.rank for repair in curve.repairs}
    for point in points:
        if point.rank not in moved:
            assert curve.loss_at(point.rank) == pytest.approx(point.loss_nats, rel=1e-9, abs=1e-11)
    rising = any(a.loss_nats < b.loss_nats for a, b in itertools.pairwise(points))
    assert bool(moved) == rising


def test_held_out_points_are_what_the_others_say_of_them() -> None:
    ranks, analytic = [1, 2, 3, 4, 5], [16.0, 8.0, 4.0, 2.0, 0.0]
    points = [point_of(r, loss, 1e-3, 16) for r, loss in ((1, 0.8), (2, 0.9 * 0.4), (3, 0.2), (4, 0.1))]
    curve = build_curve(0, "qk", ranks, analytic, points)
    assert [each.rank for each in curve.held_out] == [2, 3, 4]
    assert curve.held_out[0].measured_nats == 0.9 * 0.4
    for each, expected in zip(curve.held_out, (0.4, np.sqrt(0.36 * 0.1), 0.1), strict=True):
        assert each.predicted_nats == pytest.approx(expected, rel=1e-9)


def test_documents_round_trip() -> None:
    curve = build_curve(
        1, "mlp", [8, 16, 24], [3.0, 1.0, 0.0], [point_of(8, 0.5, 0.01), point_of(16, 0.1, 0.01)]
    )
    assert Curve.read(curve.document) == curve


def test_the_smallest_rank_must_be_measured() -> None:
    with pytest.raises(ValueError, match="rank 8 must be among"):
        build_curve(1, "mlp", [8, 16, 24], [3.0, 1.0, 0.0], [point_of(16, 0.1, 0.01)])


def test_measured_ranks_start_at_the_smallest_and_stay_below_full() -> None:
    assert measured_ranks([2, 4, 6, 8], 10) == [2, 4, 6]
    chosen = measured_ranks(list(range(1, 65)), 6)
    assert chosen[0] == 1
    assert chosen[-1] == 63
    assert len(chosen) == 6


@given(st.integers(2, 200), st.integers(1, 6))
def test_more_points_keep_the_ranks_that_were_measured(count: int, gaps: int) -> None:
    candidates = list(range(count))
    few, many = (set(measured_ranks(candidates, gaps * factor + 1)) for factor in (1, 2))
    assert few <= many <= set(candidates[:-1])
    assert {candidates[0], candidates[-2]} <= few
