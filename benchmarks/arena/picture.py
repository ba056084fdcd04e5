"""Loss against budget, rule by rule, one panel for each model. SVG that stands alone."""

from __future__ import annotations

from collections.abc import Sequence

from allocator.report.figures.drawing import Drawing
from allocator.report.figures.panel import Axis, Panel
from benchmarks.arena.table import rules_of
from benchmarks.rows import Row

_CLASS = {"published": "axis", "same problem": "third", "ours": "first"}
_LEGEND = {
    "second": "uniform",
    "axis": "published rules",
    "third": "solvers and searches of the same problem",
    "first": "ours",
}
_WIDTH, _HEIGHT, _PLOT, _COLUMNS, _TOP, _LEFT = 560, 330, 300, 2, 92, 62
_LABEL = 13


def picture(rows: Sequence[Row]) -> str:
    """KL to the dense model against the block parameters kept, single budgets only; a rule's name stands by its last point."""
    points: dict[str, dict[str, dict[float, Row]]] = {}
    for row in rows:
        metric, _, keep = row["budgets"][0].partition("=")
        if len(row["budgets"]) == 1 and metric == "block_params" and row.get("kl_nats", 0) > 0:
            points.setdefault(row["model"], {}).setdefault(row["rule"], {})[float(keep)] = row
    columns = min(_COLUMNS, max(len(points), 1))
    size = columns * _WIDTH + 20, _TOP + -(-len(points) // columns) * _HEIGHT
    drawing = Drawing(*size, "Loss against budget of every rule")
    drawing.text(20, 26, "Loss against budget, rule by rule", "ink title")
    subtitle = (
        "KL to the dense model, nats/token, against block parameters kept; a3+ with error feedback everywhere"
    )
    drawing.text(20, 44, subtitle, "faint")
    for spot, (kind, label) in enumerate(_LEGEND.items()):
        x = 20 + (0, 80, 200, 480)[spot]
        drawing.line(x, 60, x + 16, 60, kind)
        drawing.text(x + 21, 64, label)
    order = [rule for kind in _CLASS for rule in rules_of(rows, kind)]
    for number, (model, lines) in enumerate(points.items()):
        corner = number % columns * _WIDTH + _LEFT, _TOP + number // columns * _HEIGHT
        _panel(drawing, corner, model, {rule: lines[rule] for rule in order if rule in lines})
    return drawing.render()


def _panel(
    drawing: Drawing, corner: tuple[float, float], model: str, lines: dict[str, dict[float, Row]]
) -> None:
    keeps = sorted({budget for line in lines.values() for budget in line}, reverse=True)
    across = {budget: (n + 0.5) / len(keeps) for n, budget in enumerate(keeps)}
    up = Axis.logarithmic(row["kl_nats"] for line in lines.values() for row in line.values())
    panel = Panel(drawing, up, *corner, _PLOT, _HEIGHT - 66)
    panel.frame(model, [(across[budget], f"{100 * budget:g} %") for budget in keeps])
    ends = []
    for rule, line in lines.items():
        kind = "second" if rule == "uniform" else _CLASS[next(iter(line.values()))["kind"]]
        name = rule.strip("*")
        path = [panel.at(across[budget], line[budget]["kl_nats"]) for budget in keeps if budget in line]
        if len(path) > 1:
            drawing.path(path, kind, hover=name)
        for budget, row in line.items():
            label = (
                f"{name} at {100 * budget:g} %: {row['kl_nats']:.4g} ± {row['kl_stderr_nats']:.2g} nats/token"
            )
            drawing.dot(*panel.at(across[budget], row["kl_nats"]), 2, f"{kind} open", hover=label)
        ends.append((*path[-1], name, kind))
    ends.sort(key=lambda end: end[1])
    for spot, (end_x, end_y, name, kind) in enumerate(ends):
        level = panel.y + 4 + min(_LABEL, panel.height / max(len(ends), 1)) * spot
        right = panel.x + _PLOT
        drawing.line(end_x + 3, end_y, right + 8, level - 4, "grid")
        drawing.line(right + 8, level - 4, right + 18, level - 4, kind)
        drawing.text(right + 22, level, name)
