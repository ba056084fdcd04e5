"""A frontier's picture as a standalone SVG, without scripts: a curve for one metric, a map for two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 50, 60
_BLUE, _RED, _INK, _GRID = "#4e79a7", "#e15759", "#222222", "#dddddd"
_UNPROVEN = "not proven within 1e-4"
_SI = ("", "k", "M", "G", "T", "P")


def frontier_svg(document: dict[str, Any]) -> str:
    """Loss on a logarithmic axis against the limit; points that are not proven are red rings."""
    parts = _surface(document) if len(document["metrics"]) == 2 else _curve(document)
    title = f"{document['model']['reference'].split(':', 1)[-1]}: least predicted loss, nats/token"
    if document["budgets"]:
        title += "; " + ", ".join(budget["text"] for budget in document["budgets"])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n'
        f'<text x="{_LEFT}" y="26" font-size="15">{escape(title)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _curve(document: dict[str, Any]) -> list[str]:
    points = document["points"]
    positive = [point["loss_nats"] for point in points if point["loss_nats"] > 0]
    low, high = _decades(positive)
    across = _scale([point["limits"][0] for point in points], _LEFT, _WIDTH - _RIGHT)

    def down(loss: float) -> float:
        # A loss of 0 has no logarithm: it is drawn on the axis.
        share = (math.log10(loss) - low) / (high - low) if loss > 0 else 0.0
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for exponent in range(low, high + 1):
        y = down(10.0**exponent)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>')
    parts += _bottom(document, 0, across, [point["limits"][0] for point in points])
    # The loss holds from a limit up to the next one.
    steps = "".join(
        f"{'M' if not i else 'H'}{across(point['limits'][0]):.1f}{' ' if not i else 'V'}{down(point['loss_nats']):.1f}"
        for i, point in enumerate(points)
    )
    parts.append(f'<path d="{steps}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
    doubtful = [point for point in points if point["status"] != "optimal"]
    parts += [
        f'<circle cx="{across(point["limits"][0]):.1f}" cy="{down(point["loss_nats"]):.1f}" r="5" fill="none" stroke="{_RED}">'
        f"<title>{_UNPROVEN}: gap {point['gap']:.1e}</title></circle>"
        for point in doubtful
    ]
    if doubtful:
        parts.append(f'<text x="{_LEFT}" y="44" fill="{_RED}">rings: {_UNPROVEN}</text>')
    return parts


def _surface(document: dict[str, Any]) -> list[str]:
    points = document["points"]
    low, high = _decades([point["loss_nats"] for point in points if point["loss_nats"] > 0])
    columns, rows = (sorted({point["limits"][axis] for point in points}) for axis in (0, 1))
    width = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    height = (_HEIGHT - _TOP - _BOTTOM) / len(rows)
    parts = []
    for point in points:
        x = _LEFT + columns.index(point["limits"][0]) * width
        y = _HEIGHT - _BOTTOM - (rows.index(point["limits"][1]) + 1) * height
        loss = point["loss_nats"]
        share = (math.log10(loss) - low) / (high - low) if loss > 0 else 0.0
        edge = f' stroke="{_RED}" stroke-width="2"' if point["status"] != "optimal" else ""
        doubt = "" if point["status"] == "optimal" else f", {_UNPROVEN}"
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width + 0.2:.1f}" height="{height + 0.2:.1f}" fill="{_shade(share)}"{edge}>'
            f"<title>{point['limits'][0]:,} and {point['limits'][1]:,}: {loss:.3g} nats{doubt}</title></rect>"
        )
    across = _scale(columns, _LEFT + width / 2, _WIDTH - _RIGHT - width / 2)
    upwards = _scale(rows, _HEIGHT - _BOTTOM - height / 2, _TOP + height / 2)
    parts += _bottom(document, 0, across, columns)
    for value in _ticks(rows):
        parts.append(
            f'<text x="{_LEFT - 8}" y="{upwards(value) + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    parts.append(
        f'<text x="{_LEFT}" y="44">up: {_axis(document, 1)}; dark: 1e{high}, light: 1e{low} nats/token</text>'
    )
    return parts


def _bottom(
    document: dict[str, Any], axis: int, across: Callable[[float], float], values: Sequence[int]
) -> list[str]:
    parts = [
        f'<text x="{across(value):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{_short(value)}</text>'
        for value in _ticks(values)
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [
        *parts,
        f'<text x="{middle:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{_axis(document, axis)}</text>',
    ]


def _axis(document: dict[str, Any], axis: int) -> str:
    metric = document["metrics"][axis]
    return escape(f"limit of {metric['metric']} ({metric['unit']})")


def _ticks(values: Sequence[int]) -> list[float]:
    low, high = min(values), max(values)
    return [low + (high - low) * i / 4 for i in range(5)] if high > low else [low]


def _short(value: float) -> str:
    index = min(max(len(str(int(value))) - 1, 0) // 3, len(_SI) - 1)
    return f"{value / 1000**index:.3g}{_SI[index]}"


def _decades(losses: Sequence[float]) -> tuple[int, int]:
    """Exponents of ten around the losses, at least one apart and at most eight."""
    if not losses:
        return -1, 0
    high = math.ceil(math.log10(max(losses)))
    low = max(math.floor(math.log10(min(losses))), high - 8)
    return min(low, high - 1), high


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, span = min(values), max(values) - min(values)
    return lambda value: start + (end - start) * ((value - low) / span if span else 0.5)


def _shade(share: float) -> str:
    share = min(max(share, 0.0), 1.0)
    light, dark = (237, 244, 250), (18, 52, 92)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(light, dark, strict=True))
