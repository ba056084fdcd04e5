"""A profile made by hand, so that planning can be tested without a model."""

from __future__ import annotations

import copy
from typing import Any

from allocator.curves import Measurement, build_curve
from allocator.geometry import COMPONENTS, Geometry


def small_profile(key: str = "small") -> dict[str, Any]:
    """Two layers whose losses fall geometrically with the rank, faster in the second layer."""
    geometry = Geometry(
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
    curves = []
    for layer in range(geometry.layers):
        for component in COMPONENTS:
            ranks = geometry.candidate_ranks(component)
            analytic = [(layer + 2.0) ** (-12 * rank / ranks[-1]) for rank in ranks[:-1]] + [0.0]
            measured = [Measurement(ranks[n], 0.3 * analytic[n], 1e-4) for n in range(0, len(ranks) - 1, 3)]
            curves.append(build_curve(layer, component, ranks, analytic, measured).document())
    return {
        "schema": "rankalloc.profile/1",
        "key": key,
        "model": {
            "reference": "local:small",
            "weights_sha256": "a" * 64,
            "geometry": geometry.document(),
        },
        "solver": "a3",
        "calibration": {"sha256": "c" * 64},
        "curves": curves,
    }


def thinned_profile() -> dict[str, Any]:
    """``small_profile`` with four ranks a component, few enough to try all 4096 plans."""
    profile = copy.deepcopy(small_profile())
    for document in profile["curves"]:
        kept = sorted(
            {0, len(document["ranks"]) // 3, 2 * len(document["ranks"]) // 3, len(document["ranks"]) - 1}
        )
        for name in ("ranks", "analytic", "loss_nats"):
            document[name] = [document[name][k] for k in kept]
    return profile
