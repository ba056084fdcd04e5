"""Logging in and the team's page: nothing without a token, nothing of another team, the secret shown once."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.pages.conftest import Site
from tests.support.profiles import measured_profile
from tests.support.teams import add_member, token

HTML = {"Accept": "text/html"}
OWN = {**HTML, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def client(settings: Settings, store: Store, tiny_model: str, scripted: None) -> TestClient:
    return TestClient(create_app(settings, store=store), "http://127.0.0.1", follow_redirects=False)


def _enter(client: TestClient, secret: str) -> None:
    answer = client.post("/login", data={"token": secret}, headers=OWN)
    assert answer.status_code == 303
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))


def test_every_page_asks_for_a_token_and_then_leads_back(client: TestClient, store: Store) -> None:
    secret = token(store, "red")
    pages = [
        "/",
        "/profiles",
        "/profiles/x?layer=1",
        "/workshop?profile=x",
        "/plans",
        "/plans/x",
        "/team",
        "/jobs/x",
    ]
    for path in [*pages, "/plans/a/diff/b", "/jobs/x/report"]:
        answer = client.get(path, headers=HTML)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login?next=%2F"), path
        assert client.get(path).status_code == 401, path
    wanted = client.get("/profiles/x?layer=1", headers=HTML).headers["location"]
    goal = re.search(r'name="next" value="([^"]*)"', client.get(wanted).text)
    assert goal is not None
    assert goal[1] == "/profiles/x?layer=1"
    assert (
        client.post("/login", data={"token": secret, "next": goal[1]}, headers=OWN).headers["location"]
        == goal[1]
    )


@pytest.mark.parametrize(
    "goal", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "\t//x"]
)
def test_nobody_is_sent_elsewhere(client: TestClient, store: Store, goal: str) -> None:
    answer = client.post("/login", data={"token": token(store, "red"), "next": goal}, headers=OWN)
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("secret", ["ra_wrong", "ra_\u00e9", "a b", "x\r\ny"])
def test_what_is_no_token_gets_no_cookie(client: TestClient, store: Store, secret: str) -> None:
    token(store, "red")
    answer = client.post("/login", data={"token": secret}, headers=OWN)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert secret not in answer.text


def test_pages_show_the_own_team_only(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("red", profile)
    _enter(client, token(store, "red"))
    assert client.get(f"/profiles/{profile.key}", headers=HTML).status_code == 200
    _enter(client, token(store, "blue", "bo"))
    for path in (f"/profiles/{profile.key}", f"/workshop?profile={profile.key}"):
        assert client.get(path, headers=HTML).status_code == 404
    assert profile.key not in client.get("/profiles").text
    assert client.post("/logout", headers=OWN).status_code == 303
    client.cookies.clear()
    assert client.get("/", headers=HTML).status_code == 303


def test_a_token_that_reads_sees_no_forms_and_cannot_send_them(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("red", profile)
    job = {"kind": "profile", "model": "local:tiny", "budgets": "params=0.8"}
    _enter(client, token(store, "red", "rita", "read"))
    workshop = client.get(f"/workshop?profile={profile.key}")
    assert (workshop.status_code, "Save the plan" in workshop.text) == (200, False)
    assert "Submit the job" not in client.get("/").text
    for path, form in (
        ("/jobs", job),
        ("/workshop/plans", {"profile": profile.key}),
        ("/team/shares", {"key": "x"}),
    ):
        assert client.post(path, data=form, headers=OWN).status_code == 403, path
    assert client.post("/team/tokens", data={"name": "rita"}, headers=OWN).status_code == 403
    assert "What was done" not in client.get("/team").text


def test_a_cookie_changes_nothing_from_elsewhere(client: TestClient, store: Store) -> None:
    _enter(client, token(store, "red", "ada", "admin"))
    add_member(store, "red", "bo", "submit")
    for headers in (
        HTML,
        {**HTML, "Sec-Fetch-Site": "cross-site"},
        {**HTML, "Origin": "https://evil.example"},
    ):
        assert client.post("/team/members/bo/remove", data={}, headers=headers).status_code == 403
    assert store.teams.role("red", "bo") == "submit"


def test_the_team_is_managed_in_a_browser(page: Page, site: Site) -> None:
    store, key = site.store, site.profile.key
    secret = token(store, "red", "ada", "admin")
    store.profiles.put("red", site.profile)
    add_member(store, "blue", "bo")
    page.goto("/team")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_label("Token").fill(secret)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Team red")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    members = page.get_by_role("form", name="Add a member")
    members.get_by_label("Name").fill("carl")
    members.get_by_role("button").click()
    expect(page.get_by_role("rowheader", name="carl")).to_be_visible()
    tokens = page.get_by_role("form", name="Make a token")
    tokens.get_by_label("For").select_option("carl")
    tokens.get_by_role("button").click()
    made = page.locator("#secret").inner_text()
    holder = store.tokens.holder(made)
    assert holder is not None
    assert (holder.team, holder.name, holder.scope) == ("red", "carl", "submit")
    page.goto("/team")
    expect(page.get_by_role("heading", name="Tokens")).to_be_visible()
    assert made not in page.content()
    page.get_by_role("button", name=f"Revoke {made[:9]}").click()
    expect(page.get_by_text("revoked 20")).to_be_visible()
    assert store.tokens.holder(made) is None
    shares = page.get_by_role("form", name="Share")
    shares.get_by_label("with key or digest").fill(key)
    shares.get_by_label("with team").fill("blue")
    shares.get_by_role("button").click()
    page.get_by_role("button", name="Take back profile").click()
    expect(page.get_by_text("Nothing is shared with another team")).to_be_visible()
    trail = page.get_by_role("region", name="Audit trail")
    expect(trail).to_contain_text("revoked")
    expect(trail).to_contain_text("shared")
    page.get_by_role("link", name="Workshop").click()
    page.get_by_role("link", name="local:small").click()
    page.locator("input[name=block_params]").fill("0.7")
    expect(page.locator(".budgets th code")).to_have_text("block_params=0.7")
    page.get_by_role("link", name="Team").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
