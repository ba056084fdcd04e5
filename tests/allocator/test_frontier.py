"""Frontiers: every point is the plan of its limits, proven, never rising; table, CSV and picture say the same."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.frontier import frontier_csv, frontier_of, plan_at
from allocator.report.figures.frontier import frontier
from tests.support.profiles import quantized_profile, small_profile

SVG = "{http://www.w3.org/2000/svg}"


def test_points_are_the_plans_of_their_limits() -> None:
    profile = small_profile()
    curve = frontier_of(profile, ["kv_bytes_per_token"], budgets=["block_params=0.8"], points=30)
    points = curve.points
    assert len(points) == 30
    assert points[0].limits == (24,)
    assert points[-1].limits == curve.dense == (256,)
    losses = [point.loss_nats for point in points]
    assert losses == sorted(losses, reverse=True)
    for index in (0, 7, 15, 29):
        plan, point = plan_at(profile, curve, index), points[index]
        assert point.status == "optimal"
        assert point.bound_nats <= point.loss_nats
        assert plan.predicted.loss_nats == pytest.approx(point.loss_nats, rel=1e-12)
        assert (plan.budgets[0].used,) == point.used
        assert plan.budgets[0].limit == point.limits[0]
        assert plan.budgets[1].text == "block_params=0.8"


def test_surfaces_fall_along_both_metrics() -> None:
    profile = small_profile()
    metrics = ["kv_bytes_per_token", "flops_per_token@context=64,phase=decode"]
    surface = frontier_of(profile, metrics, points=6, constraints={"pin": ["0.ov=dense"]})
    at = {point.limits: point for point in surface.points}
    assert len(at) == 36
    columns, rows = (sorted({limits[axis] for limits in at}) for axis in (0, 1))
    for i, kv in enumerate(columns):
        for j, flops in enumerate(rows):
            loss = at[kv, flops].loss_nats
            assert i == 0 or loss <= at[columns[i - 1], flops].loss_nats
            assert j == 0 or loss <= at[kv, rows[j - 1]].loss_nats
    plan = plan_at(profile, surface, 17)
    assert plan.predicted.loss_nats == pytest.approx(surface.points[17].loss_nats, rel=1e-12)
    assert plan.ranks[0].ov == 16
    cells = ElementTree.fromstring(frontier(surface).svg()).findall(f"{SVG}rect[{SVG}title]")
    assert len(cells) == 36
    assert len({(cell.get("x"), cell.get("y")) for cell in cells}) == 36


def test_a_range_of_ones_own() -> None:
    curve = frontier_of(small_profile(), ["block_params"], points=5, between=[(40_000, 60_000)])
    assert [point.limits for point in curve.points] == [(40_000 + 5_000 * i,) for i in range(5)]
    with pytest.raises(BudgetInfeasible):
        frontier_of(small_profile(), ["block_params"], points=5, between=[(100, 60_000)])


def test_a_frontier_gives_the_bits_that_it_may() -> None:
    profile = quantized_profile()
    both, none = (frontier_of(profile, ["memory@context=64"], points=4, bits=bits) for bits in (None, []))
    assert both.points[0].limits < none.points[0].limits, "fewer bits reach less memory"
    assert plan_at(profile, both, 0).bits == (8, 4)
    plan = plan_at(profile, none, 1)
    assert "bits" not in plan.document
    assert plan.predicted.loss_nats == pytest.approx(none.points[1].loss_nats, rel=1e-12)


def test_the_csv_holds_every_point() -> None:
    curve = frontier_of(small_profile(), ["params"], points=9)
    rows = list(csv.DictReader(io.StringIO(frontier_csv(curve))))
    assert [float(row["loss_nats"]) for row in rows] == [point.loss_nats for point in curve.points]
    assert [int(row["limit params"]) for row in rows] == [point.limits[0] for point in curve.points]


def test_the_picture_stands_alone_and_shows_what_is_not_proven() -> None:
    curve = frontier_of(small_profile(), ["params"], budgets=["kv_bytes_per_token=0.9"], points=9)
    curve = curve.replaced(model=curve.model.replaced(reference="local:<&>"))
    clean = frontier(curve).svg()
    points = list(curve.points)
    points[3] = points[3].replaced(status="feasible", gap=0.01)
    doubtful = frontier(curve.replaced(points=points)).svg()
    for text in (clean, doubtful):
        picture = ElementTree.fromstring(text)
        assert {element.tag.removeprefix(SVG) for element in picture.iter()} <= {
            "svg",
            "rect",
            "text",
            "path",
            "circle",
            "title",
            *("line", "style"),
        }
        assert "href" not in text
        assert "kv_bytes_per_token=0.9" in text
    assert "not proven" not in clean
    assert len(ElementTree.fromstring(clean).findall(f"{SVG}circle")) == 9
    doubts = ElementTree.fromstring(doubtful).findall(f"{SVG}circle[@class='alarm open']")
    assert len(doubts) == 1
    assert (doubts[0].findtext(f"{SVG}title") or "").endswith("not proven within 1e-4: gap 1.0e-02")


def test_the_own_limit_is_marked_where_it_lies_on_the_axis() -> None:
    curve = frontier_of(small_profile(), ["params"], points=3)
    low, middle, high = (point.limits[0] for point in curve.points)

    def marks(here: int | None) -> list[ElementTree.Element]:
        return ElementTree.fromstring(frontier(curve, here=here).svg()).findall(
            f"{SVG}line[@class='mark dashed']"
        )

    (mark,) = marks(middle)
    dots = ElementTree.fromstring(frontier(curve).svg()).findall(f"{SVG}circle")
    assert float(mark.get("x1", 0)) == pytest.approx(float(dots[1].get("cx", 0)), abs=0.1)
    assert marks(None) == marks(low - 1) == marks(high + 1) == []


def test_the_table_beside_a_picture_has_every_point() -> None:
    curve = frontier_of(small_profile(), ["params"], points=9)
    page = frontier(curve).page()
    for point in curve.points:
        assert f'<th scope="row">{point.limits[0]:,}</th>' in page
    assert page.count("<tr>") == 1 + 9
    assert "<script" not in page


def test_a_picture_is_written_as_its_name_says(tmp_path: Path) -> None:
    figure = frontier(frontier_of(small_profile(), ["params"], points=3))
    for name, content in (("a.svg", figure.svg()), ("a.html", figure.page())):
        figure.write(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == content
    with pytest.raises(InvalidInput, match=r"'a\.png' is not a name that ends in \.svg"):
        figure.write(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("metrics", "budgets", "points", "said"),
    [
        ([], [], 9, "one metric or two"),
        (["params"] * 2, [], 9, "one metric or two"),
        (["params"], ["params=0.5"], 9, "without a budget of their own"),
        (["params"], [], 1, "a number from 2 to 200"),
        (["params", "kv_bytes_per_token"], [], 21, "a number from 2 to 20 for each"),
    ],
)
def test_what_makes_no_frontier_is_refused(
    metrics: list[str], budgets: list[str], points: int, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        frontier_of(small_profile(), metrics, budgets=budgets, points=points)
    with pytest.raises(InvalidInput, match="a point from 0 to 1"):
        plan_at(small_profile(), frontier_of(small_profile(), ["params"], points=2), 2)
