"""Shapes, texts and colours as SVG: no script, no reference to anything outside, the same bytes for the same picture."""

from __future__ import annotations

import re
from importlib import resources
from xml.etree.ElementTree import Element, SubElement, tostring

_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""

STYLE = (resources.files("allocator.report.figures") / "figures.css").read_text(encoding="utf-8")
"""What the classes of a drawing look like, on light and dark ground; pages that hold drawings bring it themselves."""

_VIRIDIS = (
    *("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b"),
    "#fde725",
)


class Drawing:
    """A canvas in pixels, y downwards. Every text is escaped by the XML writer."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._root = Element(
            "svg",
            {"class": "figure"},
            xmlns="http://www.w3.org/2000/svg",
            role="img",
            width=_number(width),
            height=_number(height),
            viewBox=f"0 0 {_number(width)} {_number(height)}",
        )
        SubElement(self._root, "title").text = _legal(title)
        self.rect(0, 0, width, height, "ground")

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        kind: str = "",
        *,
        fill: str = "",
        hover: str = "",
    ) -> None:
        """Coloured by its class ``kind`` or, the same on any ground, by ``fill``."""
        self._add(
            "rect",
            kind,
            hover,
            fill=fill,
            x=_number(x),
            y=_number(y),
            width=_number(width),
            height=_number(height),
        )

    def text(
        self, x: float, y: float, content: str, kind: str = "ink", *, anchor: str = "start", fill: str = ""
    ) -> None:
        """One line; ``anchor`` is start, middle or end."""
        place = {"x": _number(x), "y": _number(y), "text-anchor": anchor if anchor != "start" else ""}
        self._add("text", kind, "", fill=fill, **place).text = _legal(content)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._add("line", kind, "", x1=_number(x1), y1=_number(y1), x2=_number(x2), y2=_number(y2))

    def path(self, points: list[tuple[float, float]], kind: str, *, hover: str = "") -> None:
        """A line through all points."""
        steps = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        self._add("path", kind, hover, d=f"M{steps}", **{"stroke-width": "1.5"})

    def dot(self, x: float, y: float, radius: float, kind: str, *, hover: str) -> None:
        self._add("circle", kind, hover, cx=_number(x), cy=_number(y), r=_number(radius))

    def colour_bar(self, x: float, y: float, width: float, height: float) -> None:
        """The colours of ``colour`` from 0 to 1."""
        steps = 64
        for step in range(steps):
            self.rect(
                x + width * step / steps,
                y,
                width / steps + 1,
                height,
                fill=colour((step + 0.5) / steps),
            )

    def render(self) -> str:
        """A file that stands alone."""
        style = Element("style")
        style.text = STYLE
        self._root.insert(1, style)
        try:
            return self.inline() + "\n"
        finally:
            self._root.remove(style)

    def inline(self) -> str:
        """An element of a page that has ``STYLE``."""
        return tostring(self._root, encoding="unicode")

    def _add(self, tag: str, kind: str, hover: str, **attributes: str) -> Element:
        written = {name: value for name, value in {"class": kind, **attributes}.items() if value}
        element = SubElement(self._root, tag, written)
        if hover:
            SubElement(element, "title").text = _legal(hover)
        return element


def colour(share: float) -> str:
    """The viridis scale at 0 to 1: equal steps look equal, to the colour-blind as well."""
    spot = min(max(share, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    low = min(int(spot), len(_VIRIDIS) - 2)
    pair = [[int(_VIRIDIS[n][at : at + 2], 16) for at in (1, 3, 5)] for n in (low, low + 1)]
    mixed = [round(a + (b - a) * (spot - low)) for a, b in zip(*pair, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ink_on(share: float) -> str:
    """Black or white, whichever can be read on ``colour(share)``."""
    return "#000000" if share > 0.55 else "#ffffff"


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
