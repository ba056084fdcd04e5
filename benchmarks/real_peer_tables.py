"""Markdown of ``benchmarks.real_peers``."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from statistics import fmean

from allocator.base.statistics import mean_and_stderr
from benchmarks.peers.run import MIXED, PLAN
from benchmarks.rows import Row

MIXED_HERE = (*MIXED, "a3+ per kind", "a3+joint plan", "a3+latent plan")
SHORT = "block_params=0.8"
NAMES = {
    PLAN: "**plan**",
    "a3+joint plan": "**plan, `a3+joint`**",
    "a3+latent plan": "**plan, `a3+latent`**",
    "a3+ per kind": "per kind",
    "a3+": "a3+",
    "a3": "A3",
    "lems": "LEMS on KFAC-SVD",
    "kfac_svd": "KFAC-SVD",
    "zs_svd": "ZS-SVD",
    "modegpt_uniform": "MoDeGPT",
    "slicegpt": "SliceGPT",
    "svd_llm": "SVD-LLM",
    "svd_llm_w": "SVD-LLM, whitening alone",
    "svd_llm_v2": "SVD-LLM V2",
    "palu": "Palu",
    "palu_uniform": "Palu at one ratio",
    "clover": "CLOVER",
    "wanda": "Wanda, structured",
    "wanda_vo": "Wanda, structured, queries and keys whole",
}
"""How methods are called where people read."""


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Marker -> Markdown."""
    blocks = [row for row in rows if row["budget"].startswith("block_params")]
    cache = [row for row in rows if row["budget"].startswith("kv_bytes_per_token")]
    return {
        "real-peers": table(rows, blocks),
        "real-peers-kv": table(rows, cache),
        "real-peers-short": short(rows),
        "real-peers-budgets": by_budget(rows),
    }


def short(rows: Sequence[Row]) -> str:
    """Every method at the README's budget, on the first model and on as many tokens as its first row; the least rise first."""
    at_budget = [row for row in rows if row["budget"] == SHORT and "rise_nats" in row]
    subject = at_budget[0]["model"], at_budget[0]["tokens"]
    at_budget = [row for row in at_budget if (row["model"], row["tokens"]) == subject]
    lines = ["| method | ranks | rise | cache |", "|---|---|---|---|"]
    for row in sorted(at_budget, key=lambda row: row["rise_nats"]):
        kind = "mixed" if row["method"] in MIXED_HERE else "uniform"
        share = row["kv_elements_per_token"] / row["dense_kv_elements_per_token"]
        name = NAMES.get(row["method"], row["method"])
        lines.append(
            f"| {name} | {kind} | {row['rise_nats']:.3f} ± {row['rise_stderr_nats']:.3f} | {share:.0%} |"
        )
    return "\n".join(lines)


def by_budget(rows: Sequence[Row]) -> str:
    """At every model and budget that a peer was measured at: our plan that loses least, and the peer that does, on the most
    tokens that both were evaluated on.
    """
    lines = [
        "| model | kept | tokens | our plan | rise | best peer measured there | rise | ours / theirs |",
        "|---" * 8 + "|",
    ]
    budgets = {row["budget"] for row in rows if row["budget"]}
    for model in dict.fromkeys(row["model"] for row in rows):
        for budget in sorted(budgets, key=lambda text: (text.split("=")[0], -float(text.split("=")[1]))):
            rows_there = [row for row in rows if (row["model"], row["budget"]) == (model, budget)]
            if (pair := _best(rows_there)) is not None:
                lines.append(_beside(*pair))
    return "\n".join(lines)


def _best(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Our plan and the peer that lose least; None where the rows of no number of tokens have both."""
    for tokens in sorted({row["tokens"] for row in rows}, reverse=True):
        candidates = [row for row in rows if row["tokens"] == tokens and "rise_nats" in row]
        candidates.sort(key=lambda row: row["rise_nats"])
        ours = next((row for row in candidates if row["method"].endswith(" plan")), None)
        theirs = next((row for row in candidates if not row["method"].startswith("a3")), None)
        if ours is not None and theirs is not None:
            return ours, theirs
    return None


def _beside(ours: Row, theirs: Row) -> str:
    metric, keep = ours["budget"].split("=")
    share = f"{float(keep):.0%} of the {'cache' if metric.startswith('kv') else 'block parameters'}"
    cells = [f"{row['rise_nats']:.3f} ± {row['rise_stderr_nats']:.3f}" for row in (ours, theirs)]
    name = NAMES.get(theirs["method"], theirs["method"])
    return (
        f"| {ours['model']} | {share} | {ours['tokens']:,} | `{ours['method'].removesuffix(' plan')}` | {cells[0]} "
        f"| {name} | {cells[1]} | {ours['rise_nats'] / theirs['rise_nats']:.2f} |"
    )


def table(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    """One line a method, the least rise first; ``rows`` holds the dense models of ``shown``."""
    lines = [
        "| model (dense perplexity) | tokens | budget | method | ranks | rise, nats/token | over the plan | block params "
        "| cache | seconds |",
        "|---" * 10 + "|",
    ]
    for model, tokens in dict.fromkeys((row["model"], row["tokens"]) for row in shown):
        rows_of_model = [row for row in rows if (row["model"], row["tokens"]) == (model, tokens)]
        dense = exp(fmean(next(row["nats"] for row in rows_of_model if row["method"] == "dense")))
        for budget in dict.fromkeys(row["budget"] for row in shown):
            rows_at_budget = [row for row in rows_of_model if row["budget"] == budget]
            plan = next((row for row in rows_at_budget if row["method"] == PLAN), None)
            rows_at_budget.sort(key=lambda row: row.get("rise_nats", float("inf")))
            lines += [
                f"| {model} ({dense:.2f}) | {tokens:,} | `{budget}` | {_line(row, plan)} |"
                for row in rows_at_budget
            ]
    return "\n".join(lines)


def _line(row: Row, plan: Row | None) -> str:
    kind = "mixed" if row["method"] in MIXED_HERE else "uniform"
    head = f"{row['method']} | {kind}"
    if "error" in row:
        return f"{head} | {row['error']} | - | - | - | -"
    shown = f"{row['rise_nats']:.4f} ± {row['rise_stderr_nats']:.4f}"
    over_plan = "-"
    if plan is not None and row is not plan and "nats" in row and "nats" in plan:
        gaps = [one - other for one, other in zip(row["nats"], plan["nats"], strict=True)]
        over_plan = "{:+.4f} ± {:.4f}".format(*mean_and_stderr(gaps))
    shares = (f"{row[name] / row[f'dense_{name}']:.1%}" for name in ("block_params", "kv_elements_per_token"))
    seconds = f"{row['seconds']:,.0f}" if "seconds" in row else "-"
    return f"{head} | {shown} | {over_plan} | {' | '.join(shares)} | {seconds}"
