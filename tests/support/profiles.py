"""Profiles made by hand, so that planning, queries and exchange can be tested without a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from allocator.plan.curves.measured import build_curve, build_quantized
from allocator.plan.curves.predicted import build_predicted
from allocator.plan.documents.curve import Curve, LatentSamples, Point, Prediction, Samples
from allocator.plan.documents.profile import Gradients, Profile
from allocator.plan.effort import EFFORTS, component_ranks, gradient_ranks, latent_ranks
from allocator.plan.identity import Identity, identity
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import LATENTS, Latent, admissible_ranks
from allocator.plan.model.ranks import Ranks
from allocator.profiling.cost import profile_cost

SMALL = Geometry(
    family="llama",
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=128,
    mlp_matrices=3,
    qk_step=2,
    qk_bias=False,
    ov_bias=False,
    mlp_bias=False,
    vocab=256,
    max_positions=128,
    total_params=110_000,
    bytes_per_param=2,
)

SMALL_DENSE = {
    "params": 110_000,
    "block_params": 73_728,
    "kv_bytes_per_token": 256,
    "flops_per_token": 704_768,
}
"""What `small_costs` is at the full ranks."""


def small_costs(ranks: Ranks) -> dict[str, int]:
    """What every report counts, of a model like `SMALL`, by its sizes: 64 hidden, 4 query and 2 key/value heads, three matrices
    of an MLP, 256 tokens, 2 bytes; FLOPs of a prefill of 2048 tokens, of which a token attends to 2049 / 2.
    """
    attention, mlp = sum(ranks.qk) + sum(ranks.ov), sum(ranks.mlp)
    block = 64 * (4 + 2) * attention + 3 * 64 * mlp
    return {
        "params": 110_000 - 73_728 + block,
        "block_params": block,
        "kv_bytes_per_token": 2 * 2 * attention,
        "flops_per_token": 2 * block + 4 * 2049 * attention + 2 * 64 * 256,
    }


LARGE = SMALL.replaced(
    family="gpt_neox",
    layers=80,
    hidden=8192,
    heads=64,
    kv_heads=64,
    head_dim=128,
    intermediate=32768,
    qk_step=1,
    total_params=90_000_000_000,
)
"""80 layers with 128 candidate ranks for QK and OV and 64 for the MLP."""


def point_of(rank: int, loss_nats: float, stderr_nats: float, windows: int = 0) -> Point:
    """A measured point."""
    return Point(rank=rank, loss_nats=loss_nats, stderr_nats=stderr_nats, windows=windows)


def small_profile(key: str = "small") -> Profile:
    """Two layers whose losses fall geometrically with the rank, faster in the second layer."""
    curves = []
    for layer in range(SMALL.layers):
        for component in COMPONENTS:
            ranks = SMALL.candidate_ranks(component)
            analytic = [(layer + 2.0) ** (-12 * rank / ranks[-1]) for rank in ranks[:-1]] + [0.0]
            measured = [point_of(ranks[n], 0.3 * analytic[n], 1e-4) for n in range(0, len(ranks) - 1, 3)]
            curves.append(build_curve(layer, component, ranks, analytic, measured))
    return Profile.read(
        {
            "schema": "rankalloc.profile/1",
            "key": key,
            "model": {
                "reference": "local:small",
                "weights_sha256": "a" * 64,
                "geometry": SMALL.document,
            },
            "solver": "a3",
            "calibration": {"sha256": "c" * 64},
            "curves": curves,
        }
    )


def measured_profile(
    geometry: Geometry = SMALL,
    *,
    effort: str = "standard",
    seed: int = 0,
    reference: str = "local:small",
    around: list[dict[str, int]] | None = None,
) -> Profile:
    """All that the assemble stage writes: an identity whose key it bears, costs, noisy points with all their digits.

    ``around``: ranks of a plan, whose measured loss is 0.01 nats/token.
    """
    noise = random.Random(seed)
    named = identity(
        weights_sha256="a" * 64,
        config_sha256="b" * 64,
        tokenizer_sha256="d" * 64,
        geometry=geometry,
        calibration_sha256="c" * 64,
        window_tokens=128,
        prefix=[1],
        fit_windows=192,
        solver_version="a3+/4",
        effort=EFFORTS[effort],
        around=around,
    )
    curves = []
    for layer in range(geometry.layers):
        for component in COMPONENTS:
            ranks = geometry.candidate_ranks(component)
            size = noise.uniform(1e3, 1e6) if len(ranks) > 1 else 0.0
            analytic = [size * 50.0 ** (-rank / ranks[-1]) * noise.uniform(0.99, 1.01) for rank in ranks[:-1]]
            losses = {
                rank: 1e-6 * loss * noise.uniform(0.6, 1.4)
                for rank, loss in zip(ranks[:-1], analytic, strict=True)
            }
            measured = [
                point_of(rank, losses[rank], noise.uniform(0.01, 0.05) * losses[rank], 48)
                for rank in component_ranks(geometry, EFFORTS[effort], component)
            ]
            curves.append(build_curve(layer, component, ranks, [*analytic, 0.0], measured))
    stated = profile_cost(named, geometry, 96).document()
    return Profile.read(
        {
            "schema": "rankalloc.profile/1",
            "key": named.profile_key,
            "model": {"reference": reference, "weights_sha256": "a" * 64, "geometry": geometry.document},
            "solver": "a3+",
            "solver_version": "a3+/4",
            "calibration": {"sha256": "c" * 64, "tokens": 50_000, "fit_windows": 192, "measure_windows": 96},
            "effort": effort,
            "cost": {**stated, "measured_tokens": 123_456, "units": 789},
            "around": None
            if around is None
            else {
                "plan": "e" * 64,
                "ranks": around,
                "loss_nats": 0.010123456789012345,
                "stderr_nats": 0.0009876543210987654,
            },
            "identity": named.document,
            "curves": curves,
        }
    )


def gradient_profile(geometry: Geometry = SMALL, *, seed: int = 0, latents: Sequence[Latent] = ()) -> Profile:
    """``measured_profile`` with curves from gradients, which say four fifths of what is measured at a few ranks.

    Args:
        latents: what may be of a latent, at a fifth of what as many numbers of each head lose.
    """
    noise, other = random.Random(seed), random.Random(-1 - seed)
    effort = EFFORTS["gradient"]
    plain = measured_profile(geometry, effort="gradient", seed=seed)
    parts = []
    for curve in plain.curves:
        known = {point.rank: point.loss_nats for point in curve.measured}
        predicted = [
            predicted_point(rank, loss, loss * noise.uniform(0.9, 1.1))
            for rank in gradient_ranks(geometry, effort, curve.component)
            if (loss := 0.8 * known.get(rank, curve.loss_at(rank)) * noise.uniform(0.9, 1.1)) > 0
        ]
        measured = curve.layer in effort.measured_layers(geometry.layers)
        of_latents: dict[str, Any] = {
            form: _of_latent(
                latent_ranks(geometry, effort, form) if measured else (),
                tuple(
                    predicted_point(rank, loss, loss)
                    for rank in geometry.latent_ranks(form)
                    if (loss := 0.16 * _loss_at(curve, rank) * other.uniform(0.9, 1.1))
                ),
            )
            for form in latents
            if LATENTS[form] == curve.component and geometry.latent_ranks(form)
        }
        parts.append(
            Samples(
                layer=curve.layer,
                component=curve.component,
                ranks=curve.ranks,
                analytic=curve.analytic,
                measured=curve.measured if measured else (),
                predicted=tuple(predicted),
                **of_latents,
            )
        )
    curves, scales = build_predicted(parts)
    found = Gradients(windows=32, labels=effort.labels, scales=scales)
    return plain.replaced(gradients=found, curves=tuple(curves))


def _of_latent(measured: Sequence[int], predicted: tuple[Prediction, ...]) -> LatentSamples:
    """With five fourths of what is predicted measured at some ranks."""
    points = [
        Point(rank=each.rank, loss_nats=1.25 * each.loss_nats, stderr_nats=0.0, windows=16)
        for each in predicted
        if each.rank in measured
    ]
    return LatentSamples(predicted=predicted, **({"measured": tuple(points)} if points else {}))


def _loss_at(curve: Curve, rank: int) -> float:
    """Of a component that is left whole some loss that falls with the rank."""
    return curve.loss_at(rank) if len(curve.ranks) > 1 else 0.1 * (1 / rank - 1 / (curve.full_rank + 1))


def predicted_point(rank: int, loss_nats: float, same_windows_nats: float) -> Prediction:
    """A predicted point, known to three hundredths."""
    return Prediction(
        rank=rank, loss_nats=loss_nats, stderr_nats=0.03 * loss_nats, same_windows_nats=same_windows_nats
    )


def thinned_profile(mlp: Sequence[int] = ()) -> Profile:
    """``small_profile`` with four ranks a component, few enough to try all 4096 plans.

    Args:
        mlp: those of MLPs, in place of thirds.
    """
    curves = []
    for curve in small_profile().curves:
        most = len(curve.ranks) - 1
        kept = sorted({0, (most + 1) // 3, 2 * (most + 1) // 3, most})
        if mlp and curve.component == "mlp":
            kept = [curve.ranks.index(rank) for rank in mlp]
        fewer = {n: tuple(getattr(curve, n)[k] for k in kept) for n in ("ranks", "analytic", "loss_nats")}
        curves.append(curve.replaced(**fewer))
    return small_profile().replaced(curves=tuple(curves))


def quantized_profile(geometry: Geometry = SMALL) -> Profile:
    """``measured_profile`` with both bits: eight add little to every loss, four more, and least where most was cut."""
    profile = measured_profile(geometry)
    curves = []
    for curve in profile.curves:
        fewer = {}
        for bits, added in ((8, 1e-4), (4, 2e-2)):
            ranks = admissible_ranks(geometry, curve.component, bits)
            points = [
                point_of(rank, curve.loss_at(rank) + added * rank / ranks[-1], 1e-5, 48)
                for rank in component_ranks(geometry, EFFORTS["standard"], curve.component, bits)
            ]
            if ranks:
                fewer[str(bits)] = build_quantized(curve, bits, ranks, points)
        curves.append(curve.replaced(quantized=fewer) if fewer else curve)
    named = Identity({**(profile.identity or {}), "bits": [8, 4]})
    return profile.replaced(key=named.profile_key, bits=(8, 4), identity=named.document, curves=tuple(curves))
