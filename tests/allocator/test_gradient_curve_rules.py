"""Curves from predictions and a few measured points: factors, levels, and what of a latent nobody measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.plan.curves.predicted import build_predicted, scale_of, scaled
from allocator.plan.documents.curve import LatentSamples, Point, Prediction, Samples
from allocator.plan.documents.profile import Scale
from allocator.plan.model.geometry import Component
from tests.support.profiles import point_of, predicted_point

GRID = tuple(range(2, 18, 2))
"""Ranks of what is predicted, 16 the full one."""


def samples(
    predicted: Sequence[Prediction],
    measured: Sequence[Point] = (),
    *,
    layer: int = 0,
    kind: Component = "qk",
    ranks: Sequence[int] = GRID,
    **more: LatentSamples,
) -> Samples:
    """With an analytic loss that falls by a half at each rank."""
    analytic = [*(2.0**-n for n in range(len(ranks) - 1)), 0.0]
    return Samples(
        layer=layer,
        component=kind,
        ranks=tuple(ranks),
        analytic=tuple(analytic),
        measured=tuple(measured),
        predicted=tuple(predicted),
        **more,
    )


def halving(first: float = 0.8) -> list[Prediction]:
    return [predicted_point(rank, first / 2**n, first / 2**n) for n, rank in enumerate(GRID[:-1])]


def robust(scale: tuple[float, float], pairs: np.ndarray) -> float:
    """The objective that the scale of a kind minimises: a soft absolute value of errors of the logarithm, beyond a fifth."""
    factor, level = scale
    predicted, measured = pairs.T
    errors = np.log(factor * predicted * level / (factor * predicted + level) / measured)
    return float(np.sum(np.sqrt(1 + (errors / 0.2) ** 2) - 1))


@given(st.lists(st.tuples(st.floats(1e-4, 3), st.floats(-1.5, 1.5)), min_size=3, max_size=7))
@settings(max_examples=25, deadline=None)
def test_no_other_factor_and_level_fit_the_points_better(drawn: list[tuple[float, float]]) -> None:
    pairs = np.array([(loss, min(loss * math.exp(off), 5)) for loss, off in drawn])
    points = [point_of(rank, pairs[n, 1], 0.01) for n, rank in enumerate(GRID[: len(pairs)])]
    predicted = [predicted_point(rank, 99.0, pairs[n, 0]) for n, rank in enumerate(GRID[: len(pairs)])]
    scale = scale_of([samples(predicted, points)])
    found = robust((scale.factor, scale.level_nats), pairs)
    near = [
        robust((scale.factor * factor, min(max(scale.level_nats * level, 1e-2), 1e6)), pairs)
        for factor in (0.98, 1.0, 1.02)
        for level in (0.9, 1.0, 1.1)
    ]
    assert found <= min(near) + 1e-4
    assert 1e-2 * (1 - 1e-9) <= scale.level_nats <= 1e6 * (1 + 1e-9)
    assert scale.points == len(pairs)
    # How far off they are where losses are small, and anywhere where fewer than three are.
    off = np.log(scaled(scale, pairs[:, 0]) / pairs[:, 1])
    small = off[pairs[:, 1] < 0.1]
    assert scale.log_spread == pytest.approx(np.std(small if len(small) > 2 else off), rel=1e-9, abs=1e-12)


def test_two_ranks_are_a_curve_already() -> None:
    (curve,), _ = build_predicted([samples([predicted_point(8, 0.3, 0.3)], ranks=(8, 16))])
    assert list(curve.loss_nats) == pytest.approx([0.3, 0.0], rel=1e-6)


def test_points_that_say_nothing_scale_nothing() -> None:
    silent = Scale(factor=1.0, level_nats=1e6, log_spread=0.0, points=0)
    predicted = [
        predicted_point(2, 0.5, 0.5),
        predicted_point(4, 0.25, 0.999e-9),
        predicted_point(6, 1e-3, 1e-3),
    ]
    assert scale_of([]) == scale_of([samples(predicted)]) == silent
    # Rounding of float32, a prediction of nothing, and a rank that was not predicted.
    useless = [point_of(6, 1e-6, 0.0), point_of(4, 0.3, 0.01), point_of(8, 0.2, 0.01)]
    assert scale_of([samples(predicted, useless)]) == silent
    least = [point_of(2, 0.75, 0.01), point_of(6, 1.0001e-6, 0.0)]
    assert scale_of([samples(predicted, [*least, *useless[1:]])]).points == 2
    barely = [predicted_point(2, 0.5, 1.0001e-9)]
    assert scale_of([samples(barely, [point_of(2, 0.5, 0.01)])]).points == 1
    one = scale_of([samples(predicted, [point_of(2, 0.75, 0.01)])])
    assert float(scaled(one, np.array(0.5))) == pytest.approx(0.75, rel=1e-3)
    assert (one.points, one.log_spread) == (1, 0.0)


def test_the_spread_is_that_of_small_losses_where_three_are_small() -> None:
    pairs = [(0.02, 0.02), (0.03, 0.03), (0.04, 0.04), (0.05, 0.05), (0.5, 1.5)]
    ranks = GRID[: len(pairs)]
    predicted = [predicted_point(rank, loss, loss) for rank, (loss, _) in zip(ranks, pairs, strict=True)]
    points = [point_of(rank, loss, 0.01) for rank, (_, loss) in zip(ranks, pairs, strict=True)]
    assert scale_of([samples(predicted, points)]).log_spread < 0.01
    assert scale_of([samples(predicted[1:], points[1:])]).log_spread < 0.01
    assert scale_of([samples(predicted[2:], points[2:])]).log_spread > 0.3, (
        "of two small ones nothing is known"
    )


def test_a_level_is_where_losses_stop() -> None:
    scale = Scale(factor=3.0, level_nats=6.0, log_spread=0.0, points=1)
    assert scaled(scale, np.array([0.0, 2.0, 1e9])) == pytest.approx([0.0, 3.0, 6.0])


def test_a_curve_follows_the_prediction_between_its_ranks() -> None:
    """Along the analytic loss, which falls by a half where predictions fall by a quarter of themselves."""
    predicted = [predicted_point(2, 0.4, 9.0), predicted_point(6, 0.4 * 0.75**2, 9.0)]
    (curve,), scales = build_predicted([samples(predicted, layer=5, kind="mlp")])
    assert list(curve.loss_nats)[:3] == pytest.approx([0.4, 0.3, 0.225], rel=1e-6)
    assert list(curve.loss_nats)[3:] == pytest.approx([0.225 / 2**n for n in range(1, 5)] + [0.0], rel=1e-6)
    assert (curve.layer, curve.component, curve.full_rank) == (5, "mlp", 16)
    assert (curve.predicted, curve.measured, curve.repairs, curve.held_out) == (tuple(predicted), (), (), ())
    assert set(scales) == {"qk", "ov", "mlp"}


def test_a_measured_component_is_moved_by_a_factor_that_changes_along_its_prediction() -> None:
    """Twice the prediction at one rank and half of it four ranks on: in between once."""
    points = [point_of(2, 1.6, 0.01), point_of(10, 0.025, 0.001)]
    (curve,), scales = build_predicted([samples(halving(), points)])
    expected = [0.8 / 2**n for n in range(7)]
    factors = [2.0, 2**0.5, 1.0, 2**-0.5, 0.5, 0.5, 0.5]
    assert list(curve.loss_nats)[:-1] == pytest.approx(np.multiply(factors, expected), rel=1e-6)
    assert curve.measured == tuple(points)
    assert scales["qk"].points == 2


def test_a_measured_loss_moves_a_curve_by_a_thousand_at_most() -> None:
    known = [
        samples(halving(), [point_of(2, 0.8, 0.01), point_of(4, 0.4, 0.01), point_of(6, 0.2, 0.01)], layer=n)
        for n in range(3)
    ]
    far = samples(halving(), [point_of(2, 0.8, 0.01), point_of(10, 5000.0, 1.0)], layer=3)
    curves, scales = build_predicted([*known, far])
    usual = float(scaled(scales["qk"], np.array(0.05)))
    assert curves[3].loss_at(10) == pytest.approx(1000 * usual, rel=1e-6)


def latent(losses: Sequence[float], ranks: Sequence[int], measured: Sequence[Point] = ()) -> LatentSamples:
    points = (predicted_point(rank, loss, loss) for rank, loss in zip(ranks, losses, strict=True))
    return LatentSamples(predicted=tuple(points), **({"measured": tuple(measured)} if measured else {}))


def test_latents_are_scaled_and_moved_as_the_component_is() -> None:
    points = [point_of(2, 1.6, 0.01), point_of(10, 0.1, 0.001)]
    part = samples(halving(), points, joint=latent([0.4, 0.2, 0.05], [2, 4, 8]), kind="ov")
    (curve,), _ = build_predicted([part])
    # Twice what is predicted everywhere.
    assert curve.joint is not None
    assert curve.joint.ranks == (2, 4, 8)
    assert curve.joint.loss_nats == pytest.approx((0.8, 0.4, 0.1), rel=1e-3)
    assert curve.joint.measured == ()
    assert "measured" not in curve.document["joint"]
    assert curve.joint.predicted == part.joint.predicted  # type: ignore[union-attr]
    assert curve.latent is None
    rising = samples(halving(), joint=latent([0.1, 0.2, 0.05], [2, 4, 8]), kind="ov")
    (curve,), _ = build_predicted([rising])
    assert curve.joint is not None
    assert curve.joint.loss_nats == pytest.approx((0.2, 0.2, 0.05), rel=1e-6)


def test_where_heads_stay_whole_the_latent_is_what_is_measured() -> None:
    points = [point_of(2, 0.8, 0.01), point_of(4, 0.4, 0.01)]
    whole = [
        samples((), ranks=(16,), layer=n, latent=latent([0.4, 0.2, 0.1], [2, 4, 8], points if n else ()))
        for n in range(3)
    ]
    curves, scales = build_predicted(whole)
    assert scales["qk"].points == 4
    for curve, of in zip(curves, ((), points, points), strict=True):
        assert curve.loss_nats == (0.0,)
        assert curve.latent is not None
        assert curve.latent.loss_nats == pytest.approx((0.8, 0.4, 0.2), rel=1e-3)
        assert curve.latent.measured == tuple(of)
        assert curve.measured == ()


def test_a_latent_measured_at_its_smallest_rank_alone_rejoins_where_others_were_measured_last() -> None:
    losses, ranks = [0.8, 0.4, 0.2, 0.1, 0.05], [1, 2, 4, 6, 8]
    ends = [point_of(1, 0.8, 0.01), point_of(4, 0.2, 0.01)]
    known = [samples((), ranks=(16,), layer=n, latent=latent(losses, ranks, ends)) for n in range(4)]
    alone = samples((), ranks=(16,), layer=9, latent=latent(losses, ranks, [point_of(1, 3.2, 0.01)]))
    curves, scales = build_predicted([*known, alone])
    assert scales["qk"].points == 8, "the ends of what was measured alone scale nothing"
    assert curves[-1].latent is not None
    # Four times at its end, twice halfway along the logarithm, and from the rank at which others end as they are.
    assert curves[-1].latent.loss_nats == pytest.approx((3.2, 0.8, 0.2, 0.1, 0.05), rel=1e-3)


@pytest.mark.parametrize("last", [4, 14])
def test_heads_measured_at_their_smallest_rank_alone_rejoin_at_the_second_as_at_the_last(last: int) -> None:
    loss = dict(zip(GRID[:-1], (0.8 / 2**n for n in range(7)), strict=True))
    ends = [point_of(rank, loss[rank], 0.01) for rank in sorted({2, min(last, 6), last})]
    known = [samples(halving(), ends, layer=n) for n in range(4)]
    curve = build_predicted([*known, samples(halving(), [point_of(2, 3.2, 0.01)], layer=9)])[0][-1]
    # Four times at first and once at the last, along the logarithm of what halves with each rank.
    steps = GRID.index(last)
    factors = [4 ** (1 - min(n, steps) / steps) for n in range(7)]
    assert list(curve.loss_nats)[:-1] == pytest.approx(np.multiply(factors, list(loss.values())), rel=1e-3)


@pytest.mark.parametrize("last", [2, 8])
def test_latents_rejoin_at_the_second_rank_as_at_the_last(last: int) -> None:
    loss = {1: 0.8, 2: 0.4, 4: 0.2, 8: 0.1}
    ends = [point_of(1, 0.8, 0.01), point_of(last, loss[last], 0.01)]
    known = [
        samples((), ranks=(16,), layer=n, latent=latent(list(loss.values()), list(loss), ends))
        for n in range(4)
    ]
    alone = latent(list(loss.values()), list(loss), [point_of(1, 3.2, 0.01)])
    curve = build_predicted([*known, samples((), ranks=(16,), layer=9, latent=alone)])[0][-1]
    steps = list(loss).index(last)
    factors = [4 ** (1 - min(n, steps) / steps) for n in range(4)]
    assert curve.latent is not None
    assert curve.latent.loss_nats == pytest.approx(np.multiply(factors, list(loss.values())), rel=1e-3)


def test_one_measured_alone_follows_its_own_where_nothing_else_of_its_kind_was_measured() -> None:
    (curve,), scales = build_predicted([samples(halving(), [point_of(2, 3.2, 0.01)])])
    assert scales["qk"].points == 1
    assert list(curve.loss_nats)[:2] == pytest.approx([3.2, 1.6], rel=0.1)
