"""Every page by keyboard, on a phone, in dark, through axe's rules."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.pages.conftest import Site
from tests.support.jobs import new_job


def _all(site: Site) -> list[str]:
    request = {
        "model": "local:a-rather-long-name-of-a-model-that-does-not-fit-a-phone",
        "budgets": ["block_params=0.8"] * 3,
    }
    job = new_job(site.store, site.settings, "profile", request)
    infeasible = f"/workshop?profile={site.profile.key}&block_params=0.02"
    return [
        *site.pages(),
        f"/jobs/{job}",
        infeasible,
        f"/workshop?profile={site.profile.key}&use=memory&use=flops_per_token",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, site: Site, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    for path in _all(site):
        page.goto(path, wait_until="domcontentloaded")
        expect(page.locator("h1")).to_be_visible()
        for summary in page.locator("details:not([open]) > summary:visible").all():
            summary.click()
        expect(page.locator("#answer.stale")).to_have_count(0)  # it is dimmed while it is computed again
        found = Axe().run(page)
        told = [(each["id"], each["nodes"][0]["html"]) for each in found.response["violations"]]
        assert told == [], f"{path}: {json.dumps(told, indent=1)}"


def test_nothing_is_wider_than_a_phone(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for path in _all(site):
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_a_walk_with_the_keyboard_alone(page: Page, site: Site) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    assert page.locator(".skip").evaluate("each => each.getBoundingClientRect().top >= 0")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.goto("/")
    _tab_to(page, "Workshop")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Plan workshop")).to_be_visible()
    _tab_to(page, "local:small")
    page.keyboard.press("Enter")
    expect(page.locator("#loss")).to_be_visible()
    before = page.locator("#cli").text_content()
    _tab_to(page, "Block parameters, share of the dense model")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#cli")).not_to_have_text(before or "")
    expect(page.locator("#cli")).to_contain_text("block_params=0.78")
    _tab_to(page, "Save the plan")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What is proved")).to_be_visible()


def _tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of this name has the focus."""
    script = "document.activeElement.ariaLabel || document.activeElement.innerText || ''"
    for _ in range(80):
        page.keyboard.press("Tab")
        if name in page.evaluate(script):
            return
    raise AssertionError(f"no Tab leads to {name!r}")
