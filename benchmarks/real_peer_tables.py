"""Markdown of ``benchmarks.real_peers``."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from statistics import fmean

from allocator.base.statistics import mean_and_stderr
from benchmarks.peers.run import MIXED, PLAN
from benchmarks.rows import Row

MIXED_HERE = (*MIXED, "a3+ per kind")


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Marker -> Markdown."""
    blocks = [row for row in rows if row["budget"].startswith("block_params")]
    cache = [row for row in rows if row["budget"].startswith("kv_bytes_per_token")]
    return {"real-peers": table(rows, blocks), "real-peers-kv": table(rows, cache)}


def table(rows: Sequence[Row], chosen: Sequence[Row]) -> str:
    """One line a method, the least rise first; ``rows`` holds the dense models of ``chosen``."""
    lines = [
        "| model (dense perplexity) | budget | method | ranks | rise, nats/token | over the plan | block params | cache "
        "| seconds |",
        "|---" * 9 + "|",
    ]
    for model, tokens in dict.fromkeys((row["model"], row["tokens"]) for row in chosen):
        here = [row for row in rows if (row["model"], row["tokens"]) == (model, tokens)]
        dense = exp(fmean(next(row["nats"] for row in here if row["method"] == "dense")))
        for budget in dict.fromkeys(row["budget"] for row in chosen):
            there = [row for row in here if row["budget"] == budget]
            plan = next((row for row in there if row["method"] == PLAN), None)
            there.sort(key=lambda row: row.get("rise_nats", float("inf")))
            lines += [f"| {model} ({dense:.2f}) | `{budget}` | {_line(row, plan)} |" for row in there]
    return "\n".join(lines)


def _line(row: Row, plan: Row | None) -> str:
    kind = "mixed" if row["method"] in MIXED_HERE else "uniform"
    head = f"{row['method']} | {kind}"
    if "error" in row:
        return f"{head} | {row['error']} | - | - | - | -"
    shown = f"{row['rise_nats']:.4f} ± {row['rise_stderr_nats']:.4f}"
    over = "-"
    if plan is not None and row is not plan:
        gaps = [one - other for one, other in zip(row["nats"], plan["nats"], strict=True)]
        over = "{:+.4f} ± {:.4f}".format(*mean_and_stderr(gaps))
    shares = (f"{row[name] / row[f'dense_{name}']:.1%}" for name in ("block_params", "kv_elements_per_token"))
    seconds = f"{row['seconds']:,.0f}" if "seconds" in row else "-"
    return f"{head} | {shown} | {over} | {' | '.join(shares)} | {seconds}"
