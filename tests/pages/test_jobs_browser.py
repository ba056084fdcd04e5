"""Jobs in a browser: they come in and go on without a reload, and what people wrote stays text."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from allocator.jobs.machine.executor import Executor
from tests.pages.conftest import Site
from tests.support.jobs import new_job, run_to_end

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def _job(site: Site, model: str = "local:tiny", **request: object) -> str:
    asked = {"model": model, "budgets": ["block_params=0.8"], **request}
    return new_job(site.store, site.settings, "profile", asked)


def test_a_new_job_comes_into_the_list_and_goes_on_without_a_reload(page: Page, site: Site) -> None:
    page.goto("/")
    expect(page.get_by_text("No jobs yet.")).to_be_visible()
    page.evaluate("document.body.dataset.same = 'yes'")
    job_id = _job(site)
    row = page.locator(f"tr[data-id='{job_id}']")
    expect(row).to_contain_text("queued")
    expect(page.get_by_text("A new job came in.")).to_be_visible()
    assert run_to_end(site.store, Executor(site.store, site.settings), job_id) == "succeeded"
    expect(row).to_contain_text("succeeded")
    assert page.evaluate("document.body.dataset.same") == "yes"


def test_focus_stays_where_it_is_while_rows_come_and_change(page: Page, site: Site) -> None:
    first = _job(site)
    page.goto("/")
    link = page.locator(f"tr[data-id='{first}'] a")
    link.focus()
    second = _job(site)
    rows = page.locator("#jobs tr")
    expect(rows).to_have_count(2)
    assert [row.get_attribute("data-id") for row in rows.all()] == [second, first]
    expect(link).to_be_focused()
    site.store.jobs.change(first, was="queued", state="cancelled")
    expect(page.locator(f"tr[data-id='{first}']")).to_contain_text("cancelled")
    expect(link).to_be_focused()


def test_the_form_names_wrong_fields_and_then_leads_to_the_job(page: Page, site: Site) -> None:
    page.goto("/")
    budgets = page.get_by_label("Budgets, one a line")
    budgets.fill("speed=0.5")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_role("alert")).to_contain_text("was not submitted")
    expect(page.locator("#wrong-budgets")).to_contain_text("block_params=0.8")
    assert site.store.jobs.find("default").items == []
    page.get_by_label("Budgets, one a line").fill("block_params=0.8\nkv_bytes_per_token=0.75")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator("#state")).to_have_text("queued")
    expect(page.get_by_text("Waiting for a free worker.")).to_be_visible()
    (job,) = site.store.jobs.find("default").items
    assert job.request["budgets"] == ["block_params=0.8", "kv_bytes_per_token=0.75"]


def test_events_appear_as_they_happen_and_the_end_shows_the_rest(page: Page, site: Site) -> None:
    job_id = _job(site, script={"prepare": {"artifact": True}})
    page.goto(f"/jobs/{job_id}")
    page.evaluate("document.body.dataset.same = 'yes'")
    site.store.events.append(job_id, "test.note", f"a note of {EVIL}")
    note = page.locator("#events li", has_text="test.note")
    expect(note).to_contain_text(EVIL)
    assert page.evaluate("document.body.dataset.same") == "yes"
    assert run_to_end(site.store, Executor(site.store, site.settings), job_id) == "succeeded"
    expect(page.locator("#state")).to_have_text("succeeded")
    expect(page.get_by_role("link", name="report.json")).to_be_visible()
    seen = [int(each.get_attribute("data-seq") or 0) for each in page.locator("#events li").all()]
    assert seen == list(range(1, site.store.jobs.get("default", job_id).last_seq + 1))


def test_a_job_is_cancelled_from_its_page(page: Page, site: Site) -> None:
    job_id = _job(site)
    page.goto(f"/jobs/{job_id}")
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    assert site.store.jobs.get("default", job_id).state == "cancelled"
    expect(page.get_by_role("button", name="Cancel the job")).to_have_count(0)


def test_a_failed_job_says_why_and_what_came_before(page: Page, site: Site) -> None:
    job_id = _job(site, script={"prepare": {"error": {"kind": "invalid", "item": "prepare-0"}}})
    assert run_to_end(site.store, Executor(site.store, site.settings), job_id) == "failed"
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_role("heading", name="Invalid input")).to_be_visible()
    expect(page.locator(".failure")).to_contain_text("this item is wrong")
    expect(page.locator(".log")).to_contain_text("item.started")


def test_without_scripts_everything_is_there(browser: Browser, site: Site) -> None:
    job_id = _job(site)
    context = browser.new_context(base_url=site.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#jobs tr")).to_have_count(1)
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No job matches the filter.")).to_be_visible()
    page.goto(f"/jobs/{job_id}")
    expect(page.locator("#events li").first).to_contain_text("The job was accepted.")
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    key = site.profile.key
    page.goto(f"/profiles/{key}")
    assert page.locator("#chart svg circle").count() > 0
    page.locator("select[name=component]").select_option("ov")
    page.get_by_label("Curves to show").get_by_role("button").click()
    expect(page.locator("#chart svg path[class]")).to_have_count(2)
    page.goto(f"/workshop?profile={key}&use=block_params&block_params=0.6")
    picture = page.get_by_alt_text("Least predicted loss at every limit")
    assert picture.evaluate("each => each.complete && each.naturalWidth > 0")
    before = page.locator("#loss").text_content()
    page.locator("input[name=block_params]").fill("0.9")
    page.get_by_role("button", name="Make the plan").click()
    expect(page.locator("#loss")).not_to_have_text(before or "")
    page.get_by_role("button", name="Save the plan").click()
    expect(page.get_by_role("heading", name="What is proved")).to_be_visible()
    assert len(site.store.plans.find("default").items) == 3
    context.close()


def test_what_people_wrote_stays_text(page: Page, site: Site) -> None:
    job_id = _job(site, model=EVIL, note=EVIL)
    job = site.store.jobs.get("default", job_id)
    error = {"title": EVIL, "detail": EVIL, "errors": [{"field": EVIL, "found": EVIL, "allowed": EVIL}]}
    site.store.events.append(job_id, "test.note", EVIL)
    site.store.jobs.change(job_id, was=job.state, state="failed", error=error)
    profile = site.profile.replaced(key="evil", model=site.profile.model.replaced(reference=EVIL))
    site.store.profiles.put("default", profile)
    plan = site.store.plans.get("default", site.plans[0]).replaced(digest="evil", profile_key="evil")
    plan = plan.replaced(model=profile.model, created_by=EVIL)
    site.store.plans.put("default", plan, created_by=EVIL)
    for path in (
        *("/", f"/jobs/{job_id}", "/profiles", "/profiles/evil", "/workshop", "/workshop?profile=evil"),
        *("/plans", "/plans/evil", f"/plans/{site.plans[1]}/diff/evil"),
    ):
        page.goto(path, wait_until="networkidle")
        assert EVIL in page.locator("body").inner_text(), path
        assert page.locator("script:not([src])").count() == 0, path
        assert page.locator("img[onerror]").count() == 0, path
