"""``report.html``: every number of the report is in its pictures or beside them, and the file is small and runs nothing."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from allocator.plan.inverse import minimize
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.planning import plan_from_profile
from allocator.report.figures import report as figures
from allocator.report.html import render_html
from tests.support.profiles import LARGE, SMALL, measured_profile, quantized_profile
from tests.support.reports import report_of

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("dense", "uniform_a3", "uniform", "uniform_kind", "plan")


def elements(figure: Any, tag: str, kind: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(figure.svg())
    return [each for each in root.iter(SVG + tag) if each.get("class") == kind]


def test_the_page_runs_and_fetches_nothing_and_is_small() -> None:
    for geometry in (SMALL, LARGE):
        profile = measured_profile(geometry, effort="fast")
        page = render_html(report_of(profile, ["block_params=0.8"]), geometry, profile)
        assert not re.search(r"<script|<link|<img|url\(|@import|\bon\w+=", page)
        assert page.count("<svg") == 4
        assert "&lt;small&gt;" in page
        assert len(page) < (100_000 if geometry is SMALL else 2_000_000)
    assert render_html(report_of(profile, ["block_params=0.8"]), LARGE, None).count("<svg") == 3


def test_models_are_named_for_people() -> None:
    profile = quantized_profile()
    report = report_of(profile, ["memory=0.8@context=64"])
    report = report.replaced(uniform_bits=report.uniform)
    page = render_html(report, profile.model.geometry, profile)
    assert re.findall(r'<tr class="(\w+)"><td>([^<]+)</td>', page) == [
        ("dense", "dense"),
        ("uniform_a3", "uniform A3"),
        ("uniform", "uniform ranks"),
        ("uniform_kind", "uniform per kind"),
        ("uniform_bits", "uniform ranks and bits"),
        ("plan", "mixed plan"),
    ]
    said = re.sub(r"<(style|[^>]+)>", " ", page.partition("</style>")[2])
    assert not re.search("uniform_(a3|kind|bits)", said)
    assert "<strong>uniform per kind</strong>: the best pair of ratios for attention and MLP." in page


def test_what_is_proved_of_a_least_metric_is_said_in_its_unit() -> None:
    profile = measured_profile()
    plan = minimize(profile, "kv_bytes_per_token", max_loss_nats=0.05)
    report = report_of(profile, ["block_params=0.8"])
    assert "none has a predicted loss below 0.11" in render_html(report, SMALL, None)
    assert plan.certificate is not None
    report = report.replaced(certificate=plan.certificate, budgets=plan.budgets)
    page = " ".join(render_html(report, SMALL, None).split())
    least = plan.costs["kv_bytes_per_token"]
    assert f"none has less of kv_bytes_per_token than {least} bytes; the plan has {least} (status" in page
    assert f"own bound without the solver {least}," in page


def test_bars_are_as_high_as_the_losses() -> None:
    report = report_of(measured_profile(), ["block_params=0.8"])
    bars = elements(figures.losses(report), "rect", "second")[1:]  # the first is the legend's
    heights = [float(bar.get("height", 0)) for bar in bars]
    wanted = [getattr(report, name).measured_loss_nats for name in NAMES[1:]]
    assert [height / heights[-1] for height in heights] == [
        pytest.approx(loss / wanted[-1], abs=0.01) for loss in wanted
    ]
    predicted = elements(figures.losses(report), "rect", "first")[1:]
    assert len(predicted) == 3, "the curves predict nothing for the paper's solver"


def test_a_loss_below_zero_hangs_from_the_axis() -> None:
    report = report_of(measured_profile(), ["block_params=0.8"])
    report = report.replaced(plan=report.plan.replaced(evaluation_rise_nats=-0.02))
    above, below = elements(figures.losses(report), "rect", "third")[-2:]
    end = float(above.get("y", 0)) + float(above.get("height", 0))
    assert abs(float(below.get("y", 0)) - end) < 0.2
    assert float(below.get("height", 0)) > 1


def test_binding_budgets_are_red_and_every_number_is_in_the_table() -> None:
    budgets = report_of(measured_profile(), ["block_params=0.8", "params=0.99"]).budgets
    figure = figures.budgets(budgets)
    assert len(elements(figure, "rect", "alarm")) == sum(row.binding is True for row in budgets) == 1
    assert [(row[0], row[1], row[2]) for row in figure.rows] == [
        (row.text, f"{row.used:,}", f"{row.limit:,}") for row in budgets
    ]


def test_every_rank_has_a_bar_and_its_bits() -> None:
    profile = quantized_profile()
    plan = plan_from_profile(profile, ["memory=0.6@context=64"])
    geometry = profile.model.geometry
    figure = figures.ranks(plan.chosen, None, {c: geometry.full_rank(c) for c in COMPONENTS})
    for component in COMPONENTS:
        bars = elements(figure, "rect", component)
        told = [bar.findtext(f"{SVG}title") or "" for bar in bars]
        assert [text.split(": ")[1].split(" ")[0] for text in told] == [
            str(rank) for rank in plan.chosen.of(component)
        ]
    text = "".join(cell for row in figure.rows for cell in row)
    assert text.count("@4") + text.count("@8") == sum(len(row.bits) for row in plan.ranks) > 0
