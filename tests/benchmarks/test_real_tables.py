"""Tables of models that people know, out of rows."""

from __future__ import annotations

from typing import Any

from benchmarks import real_latents, real_peer_tables, real_peers


def row(
    budget: str, method: str, rise: float | None, *, model: str = "small", tokens: int = 64
) -> dict[str, Any]:
    measured = {} if rise is None else {"rise_nats": rise, "rise_stderr_nats": 0.01}
    return {"model": model, "tokens": tokens, "budget": budget, "method": method, **measured}


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
        row("block_params=0.9", "lems", 0.04, tokens=128),
        row("block_params=0.9", "a3+latent plan", 0.03, tokens=128),
        row("block_params=0.9", "a3+ plan", 0.01, tokens=256),  # no peer on as many
        row("block_params=0.9", "lems", 0.01, model="other"),
        row("block_params=0.9", "a3+latent plan", 0.02, model="other"),
    ]
    assert real_peer_tables.by_budget(rows).splitlines()[2:] == [
        f"| {model} | {kept} | {tokens} | `a3+latent` | {ours} ± 0.010 | {name} | {theirs} ± 0.010 | {ratio} |"
        for model, kept, tokens, ours, name, theirs, ratio in (
            ("small", "90% of the block parameters", 128, "0.030", "LEMS on KFAC-SVD", "0.040", "0.75"),
            ("small", "60% of the block parameters", 64, "0.400", "LEMS on KFAC-SVD", "0.500", "0.80"),
            ("small", "50% of the cache", 64, "0.200", "Palu", "0.400", "0.50"),
            ("other", "90% of the block parameters", 64, "0.020", "LEMS on KFAC-SVD", "0.010", "2.00"),
        )
    ]


def test_latents_are_told_with_what_they_lose() -> None:
    latent = {"layer": 3, "rank": 24, "latent": 96, "predicted_nats": 0.01, "measured_nats": 0.02}
    (line,) = real_latents.table([{"model": "small", **latent}]).splitlines()[2:]
    assert line == "| small | 3 | 24, 96 | 1.00e-02 | 2.00e-02 | 2.00 |"


def test_a_row_on_fewer_tokens_is_read_off_the_windows_of_one_on_more() -> None:
    head = {"model": "small", "budget": "block_params=0.9", "method": "lems"}
    rows = [
        {**head, "tokens": 64, "nats": [1.0, 2.0]},
        {**head, "tokens": 256, "error": "no memory"},
        {**head, "tokens": 192, "nats": [3.0, 5.0, 9.0], "seconds": 7.0, "rise_nats": 1.0},
    ]
    wanted = {"model": "small", "budget": "block_params=0.9", "method": "lems"}
    row = real_peers.on_first_windows(rows, wanted, 128, 2, [2.5, 4.0])
    assert row is not None
    assert (row["tokens"], row["nats"], row["seconds"]) == (128, [3.0, 5.0], 7.0)
    assert row["rise_nats"] == 0.75  # the mean of 0.5 and 1
    assert row["rise_stderr_nats"] == 0.25
    assert real_peers.on_first_windows(rows, wanted, 192, 3, [2.5, 4.0, 8.0]) is None, "none on more"
    assert real_peers.on_first_windows(rows, {**wanted, "method": "palu"}, 128, 2, [2.5, 4.0]) is None
    dense = real_peers.on_first_windows(rows, wanted, 128, 2)
    assert dense is not None
    assert dense["rise_nats"] == 0
