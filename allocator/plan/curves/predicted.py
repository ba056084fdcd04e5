"""Curves from gradients: what every cut of every component costs, from one backward pass, scaled by a few measured points.

To second order a cut whose output error is d costs ``1/2 E[(g . d)^2]`` nats a token, with g the gradient of -log p(y) for
labels y drawn from the model's own distribution (its Fisher information). The prediction is nearly proportional to the measured
loss, with one factor for all components of a kind; where losses are large they leave the second order and level off:

    loss = c p s / (c p + s)        p the prediction, c the factor, s the level

c and s of a kind are fitted to the points that are measured end to end, on the very windows that were predicted. A component
that is measured itself is moved to its own points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from allocator.plan.curves.measured import build_curve, interpolate
from allocator.plan.documents.curve import Curve, LatentSamples, OfLatent, Samples
from allocator.plan.documents.profile import Scale
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.precision import LATENTS

_LEAST_NATS = 1e-6
"""Measured losses below it are float32's, not the cut's."""
_MOST_MOVED = 1e3
"""A prediction that is farther off than this factor is none."""
_SMALL_NATS = 0.1
"""Losses of single cuts that plans choose among."""
_LEVELS = (1e-2, 1e6)
"""Nats within which the level is looked for; the upper end means that none was seen."""


def _measured(samples: Samples) -> Samples | LatentSamples:
    """The samples of a component that are measured: of heads and neurons, or where there are none of a latent."""
    of_latent = next((latent for form in LATENTS if (latent := getattr(samples, form)) is not None), None)
    return of_latent if len(samples.ranks) == 1 and of_latent is not None else samples


def _pairs(samples: Samples | LatentSamples) -> list[tuple[float, float]]:
    """(predicted, measured) at the measured ranks, on the same windows, nats/token."""
    expected = {point.rank: point.same_windows_nats for point in samples.predicted}
    return [
        (expected[point.rank], point.loss_nats)
        for point in samples.measured
        if point.loss_nats > _LEAST_NATS and expected.get(point.rank, 0) > _LEAST_NATS / _MOST_MOVED
    ]


def _backbone(samples: Samples) -> np.ndarray:
    """Predicted loss at every candidate rank, interpolated along the analytic curve; 0 at the full rank."""
    points = {point.rank: point.loss_nats for point in samples.predicted}
    return np.array(interpolate(list(samples.ranks), np.asarray(samples.analytic, dtype=float), points))


def scaled(scale: Scale, predicted: np.ndarray) -> np.ndarray:
    """The losses to expect, nats/token."""
    return _levelled(scale.factor * predicted, scale.level_nats)


def _levelled(loss: np.ndarray, level: float) -> np.ndarray:
    return loss * level / (loss + level)


def scale_of(parts: Sequence[Samples | LatentSamples]) -> Scale:
    """The common scale of one kind; 1 and no level where nothing was measured."""
    pairs = np.array([pair for part in parts for pair in _pairs(part)])
    if not len(pairs):
        return Scale(factor=1.0, level_nats=_LEVELS[1], log_spread=0.0, points=0)
    predicted, measured = pairs.T

    def errors(x: np.ndarray) -> np.ndarray:
        return np.log(_levelled(np.exp(x[0]) * predicted, np.exp(x[1]))) - np.log(measured)

    start = [float(np.median(np.log(measured / predicted))), math.log(max(10 * measured.max(), 1.0))]
    bounds = [-10, math.log(_LEVELS[0])], [10, math.log(_LEVELS[1])]
    # Few points, of which one may be far off: it must not draw the others along.
    fit = least_squares(errors, np.clip(start, *bounds), bounds=bounds, loss="soft_l1", f_scale=0.2)
    factor, level = map(float, np.exp(fit.x))
    small = measured < _SMALL_NATS
    off = errors(fit.x)[small if small.sum() > 2 else slice(None)]
    return Scale(factor=factor, level_nats=level, log_spread=float(np.std(off)), points=len(pairs))


def build_predicted(parts: Sequence[Samples]) -> tuple[list[Curve], dict[Component, Scale]]:
    """The curves of all components, in the order given, and each kind's scale.

    A curve is the kind's scale of the predicted one; a measured component is moved so that it passes through its own points, by
    a factor that is interpolated between them along the prediction. What is of a latent is scaled and moved as the same
    component is; where heads are left whole it is what is measured.
    """
    scales: dict[Component, Scale] = {}
    rejoined: dict[Component, int | None] = {}
    for kind in COMPONENTS:
        of_kind = [_measured(part) for part in parts if part.component == kind]
        # Where the smallest rank alone was measured, losses follow the common scale at others and not there.
        several = [part for part in of_kind if len(part.measured) > 1]
        scales[kind] = scale_of(several or of_kind)
        rejoined[kind] = max((part.measured[-1].rank for part in several), default=None)
    return [_curve(part, scales[part.component], rejoined[part.component]) for part in parts], scales


def _curve(part: Samples, scale: Scale, rejoined: int | None) -> Curve:
    """``rejoined``: the rank from which on a component whose smallest alone was measured is taken to follow the scale."""
    points = {form: latent.predicted for form in LATENTS if (latent := getattr(part, form)) is not None}
    if len(part.ranks) == 1 and not points:
        return build_curve(part.layer, part.component, part.ranks, part.analytic, ())
    predicted, source = _backbone(part), _measured(part)
    losses = scaled(scale, predicted)
    if source is part:
        between = dict(zip(part.ranks[1:-1], map(float, predicted[1:-1]), strict=True))
    else:
        between = {point.rank: point.loss_nats for point in source.predicted[1:]}
    # Ratios, not values: the windows that cuts are measured on may be harder or easier than all.
    most = math.log(_MOST_MOVED)
    alone = {
        form: np.array([prediction.loss_nats for prediction in predictions])
        for form, predictions in points.items()
    }
    of_latents = {form: scaled(scale, losses) for form, losses in alone.items()}
    pairs = [
        (
            math.log(expected),
            min(max(math.log(measured / float(scaled(scale, np.array(expected)))), -most), most),
        )
        for expected, measured in _pairs(source)
    ]
    if pairs and len(source.measured) == 1 and rejoined in between:
        pairs.append((math.log(max(between[rejoined], 1e-300)), 0.0))
    if pairs:
        pairs.sort()
        places, moves = np.array(pairs).T

        def moved(losses: np.ndarray, predicted: np.ndarray) -> np.ndarray:
            logs = np.log(np.maximum(predicted, 1e-300))
            return losses * np.exp(np.interp(logs, places, moves))

        losses = moved(losses, predicted)
        of_latents = {form: moved(of_latent, alone[form]) for form, of_latent in of_latents.items()}
    losses[-1] = 0.0
    latents: dict[str, Any] = {
        form: OfLatent(
            ranks=tuple(prediction.rank for prediction in predictions),
            loss_nats=_falling(of_latents[form]),
            predicted=predictions,
            **({"measured": measured} if (measured := getattr(part, form).measured) else {}),
        )
        for form, predictions in points.items()
    }
    return Curve(
        layer=part.layer,
        component=part.component,
        full_rank=part.ranks[-1],
        ranks=part.ranks,
        analytic=part.analytic,
        loss_nats=_falling(losses),
        measured=part.measured,
        repairs=(),
        held_out=(),
        predicted=part.predicted,
        **latents,
    )


def _falling(losses: np.ndarray) -> tuple[float, ...]:
    """No loss rises with the rank."""
    return tuple(map(float, np.maximum.accumulate(losses[::-1])[::-1]))
