"""Curves from gradients: scaled as measured points say, through the points of what is measured, monotone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.plan.curves.predicted import build_predicted, scale_of, scaled
from allocator.plan.documents.curve import Curve, Prediction, Samples
from tests.support.profiles import point_of

RANKS = tuple(range(2, 66, 2))


def analytic(strength: float) -> tuple[float, ...]:
    return tuple(strength * (1 - rank / 64) ** 2 * 100 / rank for rank in RANKS)


def part(
    layer: int,
    truth: Any,
    *,
    measured: tuple[int, ...] = (2, 22),
    strength: float = 1.0,
    kind: Any = "qk",
    easy: float = 1.0,
) -> Samples:
    """A component whose predicted loss is a power of its analytic one and whose true loss is ``truth`` of the predicted.

    Args:
        easy: how much less everything costs on the windows that cuts are measured on.
    """
    heights = analytic(strength)
    losses = [0.01 * height**1.1 for height in heights]
    spots = [0, 2, 5, 10, 17, 30]
    predictions = [
        Prediction(rank=RANKS[n], loss_nats=losses[n], stderr_nats=0.0, same_windows_nats=losses[n] / easy)
        for n in spots
    ]
    points = [point_of(rank, truth(losses[RANKS.index(rank)]) / easy, 0.001, 16) for rank in measured]
    return Samples(
        layer=layer,
        component=kind,
        ranks=RANKS,
        analytic=heights,
        measured=tuple(points),
        predicted=tuple(predictions),
    )


def levelled(factor: float, level: float) -> Any:
    return lambda loss: factor * loss * level / (factor * loss + level)


@settings(max_examples=40, deadline=None)
@given(factor=st.floats(0.3, 3), level=st.floats(1, 50))
def test_factor_and_level_are_those_of_the_measured_points(factor: float, level: float) -> None:
    parts = [part(layer, levelled(factor, level), strength=2.0**layer) for layer in range(6)]
    scale = scale_of(parts)
    assert scale.factor == pytest.approx(factor, rel=0.02)
    assert scale.log_spread < 0.02
    assert scale.points == 12
    for loss in (1e-4, 1e-2, 0.3):
        assert float(scaled(scale, np.array(loss))) == pytest.approx(levelled(factor, level)(loss), rel=0.05)


def test_one_outlier_does_not_draw_the_others_along() -> None:
    parts = [part(layer, levelled(0.8, 30), strength=0.1 * 2.0**layer) for layer in range(6)]
    parts[3] = part(3, levelled(4.0, 30), strength=0.8)
    scale = scale_of(parts)
    assert scale.factor == pytest.approx(0.8, rel=0.15)
    assert scale.log_spread > 0.3, "but is owned up to"


def test_an_unmeasured_component_follows_its_kind_alone() -> None:
    known = [part(layer, levelled(0.8, 1e5), strength=2.0**layer) for layer in range(5)]
    other = [part(layer, levelled(2.0, 1e5), kind="mlp") for layer in range(5)]
    silent = part(9, levelled(0.8, 1e5), measured=(), strength=3.0)
    curves, scales = build_predicted([*known, silent, *other])
    curve = next(each for each in curves if each.layer == 9)
    assert curve.measured == ()
    for rank, loss in zip(RANKS, curve.loss_nats, strict=True):
        expected = 0.8 * 0.01 * analytic(3.0)[RANKS.index(rank)] ** 1.1
        assert loss == pytest.approx(expected, rel=0.05, abs=1e-12)
    assert scales["mlp"].factor == pytest.approx(2.0, rel=0.02)
    assert (scales["ov"].factor, scales["ov"].points) == (1.0, 0)


def test_a_measured_component_passes_through_its_own_points() -> None:
    parts = [part(layer, levelled(0.8, 1e5), strength=2.0**layer) for layer in range(5)]
    parts[2] = part(2, levelled(1.1, 1e5), strength=4.0)
    curve = build_predicted(parts)[0][2]
    for point in curve.measured:
        assert curve.loss_at(point.rank) == pytest.approx(point.loss_nats, rel=1e-6)
    assert curve.loss_at(50) == pytest.approx(1.1 * 0.01 * analytic(4.0)[RANKS.index(50)] ** 1.1, rel=0.05)


def test_a_component_whose_smallest_rank_alone_was_measured_leaves_its_kind_there_and_not_elsewhere() -> None:
    known = [part(layer, levelled(0.8, 1e5), strength=2.0**layer) for layer in range(5)]
    ends = [part(10 + n, lambda loss: 3 * 0.8 * loss, measured=(2,), strength=1.0 + n) for n in range(20)]
    plain = [part(10 + n, None, measured=(), strength=1.0 + n) for n in range(20)]
    curves, scales = build_predicted([*known, *ends])
    usual, alone = build_predicted([*known, *plain])
    assert scales == alone, "what is measured at the ends alone scales nothing else"
    for curve, other in zip(curves[5:], usual[5:], strict=True):
        assert curve.loss_at(2) == pytest.approx(3 * other.loss_at(2), rel=1e-3)
        assert other.loss_at(8) < curve.loss_at(8) < 3 * other.loss_at(8)
        # From the second rank that others of its kind were measured at it follows them.
        assert [curve.loss_at(rank) for rank in RANKS if rank >= 22] == pytest.approx(
            [other.loss_at(rank) for rank in RANKS if rank >= 22], rel=1e-9
        )


def test_easy_windows_do_not_make_a_curve_low() -> None:
    """What is measured on windows where everything costs half as much is half as large, not the component."""
    hard, easy = (
        build_predicted([part(n, levelled(0.8, 1e5), strength=2.0**n, easy=e) for n in range(5)])[0]
        for e in (1.0, 2.0)
    )
    for one, other in zip(hard, easy, strict=True):
        assert one.loss_nats == pytest.approx(other.loss_nats, rel=1e-3)


def test_losses_never_rise_with_the_rank_and_end_at_nothing() -> None:
    bumpy = part(0, lambda loss: loss * (1 + 3 * math.sin(1e4 * loss) ** 2), measured=(2, 6, 12, 22))
    (curve,), _ = build_predicted([bumpy])
    assert list(curve.loss_nats) == sorted(curve.loss_nats, reverse=True)
    assert curve.loss_nats[-1] == 0
    assert Curve.read(curve.document) == curve


def test_a_fixed_component_has_one_rank_that_costs_nothing() -> None:
    (curve,), _ = build_predicted(
        [Samples(layer=0, component="qk", ranks=(64,), analytic=(0.0,), measured=())]
    )
    assert (curve.ranks, curve.loss_nats) == ((64,), (0.0,))
