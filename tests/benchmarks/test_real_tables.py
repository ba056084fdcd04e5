"""Tables of models that people know, out of rows."""

from __future__ import annotations

from typing import Any

from benchmarks import real_latents, real_peer_tables


def row(budget: str, method: str, rise: float | None) -> dict[str, Any]:
    measured = {} if rise is None else {"rise_nats": rise, "rise_stderr_nats": 0.01}
    return {"model": "small", "tokens": 64, "budget": budget, "method": method, **measured}


def test_our_plan_stands_beside_the_best_peer_at_every_budget() -> None:
    rows = [
        row("", "dense", None),
        row("kv_bytes_per_token=0.5", "palu", 0.4),
        row("kv_bytes_per_token=0.5", "clover", None),  # it could not
        row("kv_bytes_per_token=0.5", "a3+latent plan", 0.2),
        row("block_params=0.6", "lems", 0.5),
        row("block_params=0.6", "zs_svd", 0.7),
        row("block_params=0.6", "a3+ plan", 0.45),
        row("block_params=0.6", "a3+latent plan", 0.4),
        row("block_params=0.9", "lems", 0.05),
        row("block_params=0.9", "a3+latent plan", 0.06),
        row("block_params=0.7", "a3+latent plan", 0.3),  # no peer
    ]
    assert real_peer_tables.by_budget(rows).splitlines()[2:] == [
        "| 90% of the block parameters | `a3+latent` | 0.060 ± 0.010 | LEMS on KFAC-SVD | 0.050 ± 0.010 | 1.20 |",
        "| 60% of the block parameters | `a3+latent` | 0.400 ± 0.010 | LEMS on KFAC-SVD | 0.500 ± 0.010 | 0.80 |",
        "| 50% of the cache | `a3+latent` | 0.200 ± 0.010 | Palu | 0.400 ± 0.010 | 0.50 |",
    ]


def test_latents_are_told_with_what_they_lose() -> None:
    latent = {"layer": 3, "rank": 24, "latent": 96, "predicted_nats": 0.01, "measured_nats": 0.02}
    (line,) = real_latents.table([{"model": "small", **latent}]).splitlines()[2:]
    assert line == "| small | 3 | 24, 96 | 1.00e-02 | 2.00e-02 | 2.00 |"
