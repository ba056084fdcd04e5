"""Loss against budget, rule by rule, one panel for each model. SVG that stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allocator.report.svg import Drawing
from benchmarks.arena.table import rules_of
from benchmarks.rows import Row

_CLASS = {"published": "axis", "same problem": "mlp", "ours": "qk"}
_LEGEND = {
    "ov": "uniform",
    "axis": "published rules",
    "mlp": "solvers and searches of the same problem",
    "qk": "ours",
}
_WIDTH, _HEIGHT, _PLOT, _COLUMNS, _TOP, _LEFT = 560, 330, 300, 2, 92, 62
_LABEL = 13


def picture(rows: Sequence[Row]) -> str:
    """KL to the dense model against the block parameters kept, single budgets only; a rule's name stands by its last point."""
    points: dict[str, dict[str, dict[float, Row]]] = {}
    for row in rows:
        metric, _, kept = row["budgets"][0].partition("=")
        if len(row["budgets"]) == 1 and metric == "block_params" and row.get("kl_nats", 0) > 0:
            points.setdefault(row["model"], {}).setdefault(row["rule"], {})[float(kept)] = row
    columns = min(_COLUMNS, max(len(points), 1))
    size = columns * _WIDTH + 20, _TOP + -(-len(points) // columns) * _HEIGHT
    drawing = Drawing(*size, "Loss against budget of every rule")
    drawing.text(20, 26, "Loss against budget, rule by rule", "ink title")
    what = (
        "KL to the dense model, nats/token, against block parameters kept; a3+ with error feedback everywhere"
    )
    drawing.text(20, 44, what, "faint")
    for spot, (kind, label) in enumerate(_LEGEND.items()):
        x = 20 + (0, 80, 200, 450)[spot]
        drawing.line(x, 60, x + 16, 60, kind)
        drawing.text(x + 21, 64, label)
    order = [rule for kind in _CLASS for rule in rules_of(rows, kind)]
    for number, (model, found) in enumerate(points.items()):
        corner = number % columns * _WIDTH + _LEFT, _TOP + number // columns * _HEIGHT
        _panel(drawing, corner, model, {rule: found[rule] for rule in order if rule in found})
    return drawing.render()


def _panel(
    drawing: Drawing, corner: tuple[float, float], model: str, found: dict[str, dict[float, Row]]
) -> None:
    x, y = corner
    height = _HEIGHT - 66
    logs = [math.log10(row["kl_nats"]) for line in found.values() for row in line.values()]
    low, high = min(logs), max(logs)
    low, high = (low, high) if high - low > 0.1 else (low - 0.5, high + 0.5)
    kept = sorted({budget for line in found.values() for budget in line}, reverse=True)
    across = {budget: x + _PLOT * (n + 0.5) / len(kept) for n, budget in enumerate(kept)}

    def down(loss: float) -> float:
        return y + height * (high - math.log10(loss)) / (high - low)

    drawing.text(x, y - 8, model, "ink strong")
    for decade in range(math.ceil(low), math.floor(high) + 1):
        drawing.line(x, down(10.0**decade), x + _PLOT, down(10.0**decade), "grid")
        drawing.text(x - 6, down(10.0**decade) + 4, f"1e{decade}", "faint", anchor="end")
    drawing.line(x, y, x, y + height, "axis")
    drawing.line(x, y + height, x + _PLOT, y + height, "axis")
    for budget in kept:
        drawing.text(across[budget], y + height + 16, f"{100 * budget:g} %", "faint", anchor="middle")
    ends = []
    for rule, line in found.items():
        kind = "ov" if rule == "uniform" else _CLASS[next(iter(line.values()))["kind"]]
        name = rule.strip("*")
        path = [(across[budget], down(line[budget]["kl_nats"])) for budget in kept if budget in line]
        if len(path) > 1:
            drawing.path(path, kind, hover=name)
        for budget, row in line.items():
            told = (
                f"{name} at {100 * budget:g} %: {row['kl_nats']:.4g} ± {row['kl_stderr_nats']:.2g} nats/token"
            )
            drawing.dot(across[budget], down(row["kl_nats"]), 2, f"{kind} open", hover=told)
        ends.append((*path[-1], name, kind))
    ends.sort(key=lambda end: end[1])
    for spot, (end_x, end_y, name, kind) in enumerate(ends):
        level = y + 4 + min(_LABEL, height / max(len(ends), 1)) * spot
        drawing.line(end_x + 3, end_y, x + _PLOT + 8, level - 4, "grid")
        drawing.line(x + _PLOT + 8, level - 4, x + _PLOT + 18, level - 4, kind)
        drawing.text(x + _PLOT + 22, level, name)
