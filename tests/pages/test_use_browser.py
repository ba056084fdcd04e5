"""From a plan onwards in a browser: compressed, exported, shared; and the first click in an empty installation."""

from __future__ import annotations

import shutil

from playwright.sync_api import Page, expect

from allocator.jobs.machine.executor import Executor
from tests.pages.conftest import Site
from tests.support.jobs import items
from tests.support.processes import ROOT
from tests.support.profiles import measured_profile
from tests.support.teams import add_member


def _profile_of_tiny(site: Site) -> str:
    """A profile of the model that the site has."""
    profile = measured_profile(reference="local:tiny").replaced(key="tiny")
    site.store.profiles.put("default", profile)
    return "tiny"


def test_compress_with_this_from_the_workshop(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={_profile_of_tiny(site)}")
    page.locator("[data-for=block_params]").fill("0.7")
    expect(page.locator(".budgets th code")).to_have_text("block_params=0.7")
    page.get_by_label("compact").check()
    assert "export" not in page.url
    page.get_by_role("button", name="Compress with this").click()
    expect(page.locator("#state")).to_have_text("queued")
    (job,) = site.store.jobs.find("default").items
    assert page.url.endswith(f"/jobs/{job.id}")
    assert job.request["export"] == ["compact"]
    plan = site.store.plans.get("default", job.request["plan"])
    assert [budget.text for budget in plan.budgets] == ["block_params=0.7"]
    page.get_by_role("link", name=job.request["plan"][:12]).click()
    expect(page.get_by_role("heading", name="Use it")).to_be_visible()


def test_what_cannot_be_met_cannot_be_compressed(page: Page, site: Site) -> None:
    page.goto(f"/workshop?profile={_profile_of_tiny(site)}")
    page.locator("[data-for=block_params]").fill("0.02")
    expect(page.locator("#problem")).to_be_visible()
    for name in ("Compress with this", "Save and share", "Save the plan"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()


def test_a_plan_is_saved_and_shared(page: Page, site: Site) -> None:
    add_member(site.store, "speech")
    page.goto(f"/workshop?profile={_profile_of_tiny(site)}")
    expect(page.locator("#plan")).to_be_visible()
    page.get_by_role("button", name="Save and share").click()
    page.get_by_label("With team").fill("speech")
    page.get_by_role("button", name="Share", exact=True).click()
    expect(page.get_by_text("Shared with speech")).to_be_visible()
    digest = page.url.partition("#")[0].rpartition("/")[2]
    assert site.store.plans.get("speech", digest).profile_key == "tiny"


def test_a_job_says_how_far_it_is_without_a_reload(page: Page, site: Site) -> None:
    page.goto(f"/plans/{site.plans[0]}")
    page.get_by_label("Model", exact=True).fill("local:tiny")
    page.get_by_role("button", name="Compress with this").click()
    page.wait_for_url("**/jobs/*")
    (job,) = site.store.jobs.find("default").items
    (item,) = items(site.store, job.id)
    taken = Executor(site.store, site.settings).claim(item.id)
    assert taken is not None
    site.store.items.renew(taken.id, taken.attempt, 600.0, (40, 100, "windows"))
    site.store.events.append(job.id, "profile.cost", "profile to make: about 5.3 forward passes")
    expect(page.locator("#cost")).to_contain_text("Profile to make: about 5.3 forward passes.")
    expect(page.locator("#counts")).to_contain_text("40 of 100 windows")
    expect(page.locator("#counts")).to_contain_text("left, until about")


def test_the_first_click_tries_the_example(page: Page, site: Site) -> None:
    page.goto("/")
    expect(page.get_by_text("Nothing here yet")).to_be_visible()
    expect(page.get_by_role("button", name="Try the example model")).to_have_count(0)
    shutil.copytree(ROOT / "examples" / "models" / "pylm-llama", site.settings.model_roots[0] / "pylm-llama")
    page.reload()
    page.get_by_role("button", name="Try the example model").click()
    expect(page.locator("#state")).to_have_text("queued")
    (job,) = site.store.jobs.find("default").items
    assert (job.kind, job.model) == ("compress", "local:pylm-llama")
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator("#jobs tr")).to_have_count(1)
    expect(page.get_by_text("Nothing here yet")).to_be_hidden()
