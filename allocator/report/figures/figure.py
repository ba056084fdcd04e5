"""A drawing with the numbers it shows: as SVG, as a part of a page, as a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from allocator.base.errors import InvalidInput
from allocator.report.figures.drawing import STYLE, Drawing

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("allocator.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the same as a table."""

    title: str
    drawing: Drawing
    head: Sequence[str]
    """Titles of the table's columns."""
    rows: Sequence[Sequence[str]]

    def svg(self) -> str:
        """The drawing as a file that stands alone."""
        return self.drawing.render()

    def picture(self) -> Markup:
        """The drawing for a page that has ``drawing.STYLE``, in a region that scrolls where the page is narrow."""
        return self._rendered("picture.html")

    def html(self) -> Markup:
        """The picture and, below it, the table, folded up."""
        return self._rendered("figure.html")

    def _rendered(self, template: str) -> Markup:
        text = _ENVIRONMENT.get_template(template).render(figure=self)
        return Markup(text)  # noqa: S704 - the template and the XML writer have escaped every text

    def page(self) -> str:
        """One file with picture and table that opens anywhere."""
        return _ENVIRONMENT.get_template("figure_page.html").render(figure=self, style=STYLE)

    def file(self, path: Path) -> str:
        """What a file of this name holds: SVG or a page. Raises InvalidInput for another ending."""
        check_name(path)
        return self.svg() if path.suffix == ".svg" else self.page()

    def write(self, path: Path) -> None:
        """Write `file`. Raises InvalidInput."""
        path.write_text(self.file(path), encoding="utf-8")


def check_name(path: Path) -> None:
    """Raises InvalidInput where no figure can be written under this name: to be asked before one is made."""
    if path.suffix not in (".svg", ".html"):
        allowed = "a name that ends in .svg (the picture) or .html (picture and table)"
        raise InvalidInput.of("out", path.name, allowed, at="--out")
