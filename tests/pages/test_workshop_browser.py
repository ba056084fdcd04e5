"""Profiles and the workshop in a browser: sliders lead to plans, charts can be read with keys, nothing is stored in passing."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from allocator.plan.inverse import minimize
from allocator.plan.planning import plan_from_profile
from tests.pages.conftest import Site
from tests.support.teams import token


def _ranks(page: Page) -> list[dict[str, int]]:
    """As they stand in the table of the plan."""
    rows = {
        component: [int(text) for text in page.locator(f"#ranks tr.{component} td span").all_text_contents()]
        for component in ("qk", "ov", "mlp")
    }
    layers = zip(*rows.values(), strict=True)
    return [{"layer": n, **dict(zip(rows, ranks, strict=True))} for n, ranks in enumerate(layers)]


def _slide(page: Page, metric: str, value: float) -> None:
    slider = page.locator(f"[data-for={metric}]")
    slider.evaluate(
        "(each, value) => { each.value = value; each.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def test_a_slider_leads_to_the_proven_plan_and_stores_nothing(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    for share in (0.9, 0.7, 0.55):
        _slide(page, "block_params", share)
    expect(page.locator("#cli")).to_contain_text("--budget block_params=0.55")
    wanted = plan_from_profile(site.profile, ["block_params=0.55"])
    expect(page.locator(".budgets th code")).to_have_text("block_params=0.55")
    assert _ranks(page) == wanted.chosen.layers()
    assert len(site.store.plans.find("default").items) == 2
    page.get_by_role("button", name="Save the plan").click()
    expect(page.get_by_role("heading", name="What is proved")).to_be_visible()
    assert page.url.endswith(f"/plans/{wanted.digest}")
    assert site.store.plans.get("default", wanted.digest).ranks == wanted.ranks


def test_who_only_reads_moves_sliders_too_and_keeps_nothing(page: Page, site: Site) -> None:
    page.goto("/login")
    page.get_by_label("Token").fill(token(site.store, "default", "rita", "read"))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Workshop")).to_be_visible()
    page.goto(f"/workshop?profile={site.profile.key}")
    _slide(page, "block_params", 0.7)
    expect(page.locator(".budgets th code")).to_have_text("block_params=0.7")
    assert _ranks(page) == plan_from_profile(site.profile, ["block_params=0.7"]).chosen.layers()
    _slide(page, "block_params", 0.02)
    expect(page.locator("#problem")).to_be_visible()
    assert page.get_by_role("button", name="Save the plan").count() == 0
    assert len(site.store.plans.find("default").items) == 2


def test_what_is_moved_before_the_script_has_come_counts(page: Page, site: Site) -> None:
    held: list[Route] = []
    page.route("**/workshop.js", lambda route: held.append(route))
    page.goto(f"/workshop?profile={site.profile.key}", wait_until="commit")
    page.locator("[data-for=block_params]").fill("0.6")
    page.wait_for_function("document.readyState !== 'loading'")
    expect(page.locator("#cli")).to_contain_text("block_params=0.8")
    held[0].continue_()
    expect(page.locator(".budgets th code")).to_have_text("block_params=0.6")
    assert _ranks(page) == plan_from_profile(site.profile, ["block_params=0.6"]).chosen.layers()


def test_several_budgets_and_constraints_hold_at_once(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    page.get_by_label("KV cache per token", exact=True).check()
    _slide(page, "kv_bytes_per_token", 0.5)
    page.get_by_label("Memory: weights and cache", exact=True).check()
    page.locator("input[name=memory]").fill("0.9")
    page.get_by_label("Align ranks to").fill("mlp=32")
    budgets = ["block_params=0.8", "kv_bytes_per_token=0.5", "memory=0.9@batch=8,context=4096"]
    expect(page.locator("#answer:not(.stale) .budgets tbody tr")).to_have_count(3)
    expect(page.locator("#cli")).to_contain_text("--align mlp=32")
    wanted = plan_from_profile(site.profile, budgets, constraints={"align": ["mlp=32"]})
    expect(page.locator("#ranks tr.mlp td span").first).to_have_text(str(wanted.ranks[0].mlp))
    assert _ranks(page) == wanted.chosen.layers()
    address = parse_qs(urlsplit(page.url).query)
    assert address["use"] == ["block_params", "kv_bytes_per_token", "memory"]
    page.reload()
    assert _ranks(page) == wanted.chosen.layers()


def test_an_infeasible_budget_shows_the_way_out(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    _slide(page, "block_params", 0.02)
    expect(page.get_by_role("heading", name="Budget cannot be met")).to_be_visible()
    expect(page.locator("#save")).to_be_disabled()
    page.get_by_role("link", name="Raise to").click()
    expect(page.locator("#plan")).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()
    assert all(row["qk"] == 2 for row in _ranks(page))


def test_the_commands_make_the_same_plan(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    _slide(page, "block_params", 0.7)
    expect(page.locator("#rest")).to_contain_text("block_params=0.7")
    page.locator("#rest + button").click()
    expect(page.locator("#rest + button")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    body = copied.partition("-d '")[2].removesuffix("'")
    headers = {"content-type": "application/json"}
    made = httpx.post(f"{site.url}/v1/plans", content=body, headers=headers).json()
    assert made["digest"] == plan_from_profile(site.profile, ["block_params=0.7"]).digest


def test_a_metric_can_be_as_small_as_a_loss_allows(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    page.get_by_label("Block parameters", exact=True).uncheck()
    page.get_by_label("Least of").fill("kv_bytes_per_token")
    expect(page.locator("#problem")).to_contain_text("fill in both fields")
    page.get_by_label("Predicted loss at most").fill("0.05")
    expect(page.locator("#cli")).to_contain_text("--least kv_bytes_per_token --max-loss 0.05")
    wanted = minimize(site.profile, "kv_bytes_per_token", max_loss_nats=0.05)
    expect(page.locator(".budgets th code")).to_have_text(wanted.budgets[0].text)
    assert _ranks(page) == wanted.chosen.layers()
    page.reload()
    expect(page.get_by_label("Predicted loss at most")).to_have_value("0.05")
    assert _ranks(page) == wanted.chosen.layers()


def test_curves_are_chosen_by_cell_and_by_key(page: Page, site: Site) -> None:
    page.goto(f"/profiles/{site.profile.key}")
    lines = page.locator("#chart svg path[class]")
    expect(lines).to_have_count(len(site.profile.curves))
    cell = page.locator(".heat a[data-layer='1'][data-component='ov']")
    cell.click()
    expect(lines).to_have_count(1)
    expect(lines).to_have_class("ov")
    expect(cell).to_have_class("chosen")
    curve = next(c for c in site.profile.curves if (c.layer, c.component) == (1, "ov"))
    dots = page.locator("#chart svg circle title")
    expect(dots).to_have_count(len(curve.measured))
    expect(dots.first).to_contain_text(f"layer 1 OV, rank {curve.measured[0].rank} of {curve.full_rank}")
    fold = page.locator("#chart summary")
    fold.focus()
    page.keyboard.press("Enter")
    rows = page.locator("#chart tbody tr")
    expect(rows).to_have_count(len(curve.measured))
    expect(rows.first).to_be_visible()
    drawn = lines.get_attribute("d")
    page.get_by_label("Scale").select_option("linear")
    expect(lines).not_to_have_attribute("d", drawn or "")
    expect(rows.first).to_be_visible()
    page.reload()
    expect(lines).to_have_count(1)
    page.get_by_role("combobox", name="Layer").select_option("all")
    expect(lines).to_have_count(len(site.profile.curves) // 3)


def test_pictures_are_named_and_can_be_scrolled_by_key(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"/workshop?profile={site.profile.key}")
    region = page.get_by_role("region", name="small: least predicted loss, nats/token", exact=True)
    expect(region.get_by_role("img", name="small: least predicted loss")).to_be_visible()
    region.focus()
    page.keyboard.press("ArrowRight")
    # The pages' policy lets nobody evaluate text, so the browser cannot wait for an expression.
    scrolled = (region.evaluate("node => node.scrollLeft") or page.wait_for_timeout(50) for _ in range(100))
    assert any(scrolled)


@pytest.mark.parametrize(("metric", "unit"), [("kv_bytes_per_token", "bytes"), ("memory", "bytes")])
def test_the_frontier_is_drawn_for_any_metric(page: Page, site: Site, metric: str, unit: str) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    page.locator("#metric").select_option(metric)
    chart = page.locator("#frontier svg")
    expect(chart).to_contain_text(f"limit of {metric}")
    expect(chart).to_contain_text(f"({unit})")
    page.locator("#frontier summary").click()
    expect(page.locator("#frontier tbody tr")).to_have_count(24)


def test_the_frontier_marks_the_budget_and_heeds_the_others(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={site.profile.key}")
    mark = page.locator("#frontier line.mark")
    expect(mark).to_have_count(1)
    before = float(mark.get_attribute("x1") or 0)
    _slide(page, "block_params", 0.5)
    expect(mark).not_to_have_attribute("x1", f"{before:g}")
    assert float(mark.get_attribute("x1") or 0) < before
    page.get_by_label("KV cache per token", exact=True).check()
    expect(page.locator("#frontier svg > title")).to_contain_text("; kv_bytes_per_token=0.8")
