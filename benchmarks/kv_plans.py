"""The cache alone: QK and OV cut, every MLP whole, mixed ranks against uniform ones at the same bytes per token.

The case that papers on the KV cache publish. ``python -m benchmarks.run kv`` fills docs/benchmarks/results.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.allocation import Case, cases, compress
from benchmarks.rows import Rows, report_of

KEEPS = ("0.8", "0.6", "0.4", "0.2")
WHOLE_MLP = ("--pin", "*.mlp=dense")


def rotary(case: Case) -> bool:
    """Whether the model's heads are rotated, so that QK loses pairs of dimensions and not directions."""
    config = json.loads((case.folder / "config.json").read_text(encoding="utf-8"))
    return config["model_type"] != "gpt2"


def run(rows: Rows, work: Path) -> None:
    """All models at all sizes of the cache; rows that are there already are left as they are."""
    for case in cases(work):
        for keep in KEEPS:
            if not rows.has(model=case.name, keep=keep):
                report = compress(case, [f"kv_bytes_per_token={keep}"], work, *WHOLE_MLP)
                rows.add([{"model": case.name, "rotary": rotary(case), "keep": keep, "report": report}])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: evaluation rise of each allocation at each share of the cache kept."""
    lines = [
        "| model | positions | cache kept | uniform A3 | uniform | mixed | mixed / uniform | mixed / A3 | KV bytes/token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        report = report_of(row)
        a3, uniform, plan = (
            getattr(report, name).evaluation_rise_nats for name in ("uniform_a3", "uniform", "plan")
        )
        shown = [
            f"**{rise:.4f}**" if rise == min(a3, uniform, plan) else f"{rise:.4f}"
            for rise in (a3, uniform, plan)
        ]
        lines.append(
            f"| {row['model']} | {'rotary' if row['rotary'] else 'learned'} | {float(row['keep']):.0%} "
            f"| {' | '.join(shown)} | {plan / uniform:.2f} | {plan / a3:.2f} "
            f"| {report.plan.costs['kv_bytes_per_token']:,} |"
        )
    return "\n".join(lines)
