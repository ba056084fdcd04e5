"""Pictures of profiles: what is in them, that they stand alone, and that no text gets out of its place."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.documents.profile import Profile
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.queries import most_sensitive, removals
from allocator.report.figures.drawing import colour
from allocator.report.figures.profile import curves, heatmap
from tests.support.profiles import LARGE, SMALL, measured_profile, point_of

SVG = "{http://www.w3.org/2000/svg}"


def heatmap_svg(profile: Profile, **question: Any) -> str:
    return heatmap(profile, **question).svg()


def curves_svg(profile: Profile, **question: Any) -> str:
    return curves(profile, **question).svg()


def parsed(picture: str) -> ElementTree.Element:
    root = ElementTree.fromstring(picture)
    assert root.tag == SVG + "svg"
    return root


def hovers(root: ElementTree.Element, tag: str) -> dict[str, ElementTree.Element]:
    """Hover text -> element."""
    found = {}
    for element in root.iter(SVG + tag):
        title = element.find(SVG + "title")
        if title is not None:
            assert title.text
            found[title.text] = element
    return found


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(SVG + "text")]


@pytest.mark.parametrize("geometry", [SMALL, LARGE], ids=["2 layers", "80 layers"])
def test_the_heat_map_has_every_component_of_every_layer(geometry: Any) -> None:
    profile = measured_profile(geometry, effort="fast")
    root = parsed(heatmap_svg(profile, remove=0.3))
    cells = hovers(root, "rect")
    assert len(cells) == 3 * geometry.layers
    found, _ = removals(profile, remove=0.3)
    first, last = most_sensitive(found)[0], most_sensitive(found)[-1]
    bottom = max(0.0, 1 - math.log10(first.loss_nats / last.loss_nats))  # the scale spans a decade at least
    for removal, share in ((first, 1.0), (last, bottom)):
        told = (
            f"layer {removal.layer} {removal.component.upper()}: rank {removal.from_rank} to {removal.rank}"
        )
        (cell,) = [each for text, each in cells.items() if text.startswith(told)]
        assert cell.get("fill") == colour(share)
        assert f"{removal.loss_nats:.1e}" in texts(root)
    places = {(cell.get("x"), cell.get("y")) for cell in cells.values()}
    assert len(places) == len(cells), "no cell hides another"
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert all(
        float(cell.get("x", -1)) + float(cell.get("width", 0)) <= width
        and float(cell.get("y", -1)) + float(cell.get("height", 0)) <= height
        for cell in cells.values()
    )


def test_cells_without_a_loss_say_why() -> None:
    cells = hovers(parsed(heatmap_svg(measured_profile(SMALL.replaced(fixed=("ov",))), remove=0.9)), "rect")
    assert "layer 0 OV: stays whole" in cells
    assert "layer 1 QK: its smallest rank is larger" in cells


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_curves_show_every_measured_point_in_its_layer_s_panel(scale: str) -> None:
    profile = measured_profile(LARGE, effort="fast")
    root = parsed(curves_svg(profile, scale=scale))
    dots = hovers(root, "circle")
    assert len(dots) == sum(len(curve.measured) for curve in profile.curves)
    assert [text for text in texts(root) if text.startswith("layer")] == [f"layer {n}" for n in range(80)]
    assert len(hovers(root, "path")) == 240
    assert len(curves_svg(profile, scale=scale)) < 2_000_000


def test_one_layer_and_one_component_alone_are_drawn_to_scale() -> None:
    measured = [point_of(rank, loss, 0.0, 1) for rank, loss in ((2, 1.0), (6, 0.1), (10, 0.01), (14, 0.0))]
    losses = [1.0, 0.5, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0]
    first, *others = measured_profile().curves
    first = first.replaced(measured=measured, loss_nats=losses)
    profile = measured_profile().replaced(curves=[first, *others])
    log = curves_svg(profile, scale="log", layer=0, component="qk")
    dots = list(hovers(parsed(log), "circle").values())
    x, y = ([float(dot.get(name, 0)) for dot in dots] for name in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.3)
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.3), "equal ratios are equal steps"
    assert dots[3].get("class") == "qk open", "no logarithm: an open dot at the bottom"
    assert {"0", "8", "16"} <= set(texts(parsed(log))), "one component: ranks as numbers"
    linear = list(
        hovers(parsed(curves_svg(profile, scale="linear", layer=0, component="qk")), "circle").values()
    )
    y = [float(dot.get("cy", 0)) for dot in linear]
    assert (y[1] - y[0]) / (y[3] - y[0]) == pytest.approx(0.9, abs=0.01)


def test_gains_around_a_plan_lie_below_the_zero_line() -> None:
    around = [{"layer": n, "qk": 8, "ov": 8, "mlp": 64} for n in range(2)]
    profile = measured_profile(around=around)
    first, second, *others = profile.curves
    gain = second.measured[-1].replaced(loss_nats=-0.05)
    second = second.replaced(measured=[*second.measured[:-1], gain])
    profile = profile.replaced(curves=[first, second, *others])
    root = parsed(curves_svg(profile, scale="linear", layer=0, component="ov"))
    dots = list(hovers(root, "circle").values())
    assert float(dots[-1].get("cy", 0)) > max(float(dot.get("cy", 0)) for dot in dots[:-1])
    parsed(heatmap_svg(profile))


def test_a_profile_whose_losses_are_all_zero_is_drawn() -> None:
    curves = []
    for curve in measured_profile().curves:
        points = [point.replaced(loss_nats=0.0, stderr_nats=0.0) for point in curve.measured]
        curves.append(curve.replaced(loss_nats=[0.0] * len(curve.ranks), measured=points))
    profile = measured_profile().replaced(curves=curves)
    for picture in (heatmap_svg(profile), curves_svg(profile), curves_svg(profile, scale="linear")):
        parsed(picture)


def test_pictures_stand_alone_and_escape_every_text() -> None:
    evil = "local:</title><script>alert('x')</script>&\"\x00\x1b]]>"
    profile = measured_profile(reference=evil)
    for picture in (heatmap_svg(profile), curves_svg(profile), curves_svg(profile, scale="linear")):
        root = parsed(picture)
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            *("svg", "title", "style", "rect", "text", "line", "path", "circle"),
        }
        assert "alert" in "".join(texts(root))
        outside = re.findall(r"href|url\(|@import|\bon\w+=|https?://(?!www\.w3\.org/2000/svg)", picture)
        assert outside == []
        assert "prefers-color-scheme: dark" in picture
        assert all(f".{component}" in picture for component in COMPONENTS)


@pytest.mark.parametrize(
    ("question", "field"),
    [({"scale": "cubic"}, "scale"), ({"layer": 2}, "layer"), ({"layer": -1}, "layer")],
)
def test_what_cannot_be_drawn_is_refused(question: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        curves_svg(measured_profile(), **question)
    assert caught.value.fields[0].field == field
