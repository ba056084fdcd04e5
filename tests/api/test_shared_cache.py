"""Answers that are kept in memory: the same bytes, for those who may see them now and nobody else, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.store import Store
from api.app import create_app
from api.web.services import Services
from api.web.shared_cache import SharedCache
from tests.support.profiles import measured_profile
from tests.support.teams import add_member

Login = Callable[..., TestClient]
VIEWS = (
    "",
    "/sensitivity",
    "/sensitivity?remove=0.3&limit=2",
    "/export",
    "/heatmap.svg",
    "/curves.svg?layer=1",
    "/curves",
    "/frontier?metric=block_params&points=3",
    "/frontier?metric=block_params&points=3&format=svg",
)


@pytest.fixture
def profile(store: Store) -> Profile:
    document = measured_profile()
    add_member(store, "red")
    store.profiles.put("red", document)
    return document


def _services(client: TestClient) -> Services:
    found: Services = client.app.state.services  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_a_kept_answer_is_given_to_those_who_may_see_it_now(
    login: Login, profile: Profile, settings: Settings, store: Store, view: str
) -> None:
    url = f"/v1/profiles/{profile.key}{view}"
    red, blue = login("red", "ada"), login("blue", "bob")
    cold = red.get(url)
    assert cold.status_code == 200, cold.text
    kept = red.get(url)
    assert (kept.content, kept.headers.get("etag")) == (cold.content, cold.headers.get("etag"))
    assert blue.get(url).status_code == 404, "it is kept, and still not blue's"
    share, _ = store.shares.add("red", "profile", profile.key, with_team="blue", by="ada")
    assert blue.get(url).status_code == 200
    store.shares.undo("red", share.id, by="ada")
    assert blue.get(url).status_code == 404
    assert red.get(url).content == cold.content
    with TestClient(create_app(settings, store=store), "http://127.0.0.1", headers=red.headers) as afresh:
        assert afresh.get(url).content == cold.content, "what is kept is what would be made"


def test_what_is_shared_is_kept_apart_from_ones_own(login: Login, profile: Profile, store: Store) -> None:
    """They differ by `shared_by`, also where both have been asked for before."""
    url = f"/v1/profiles/{profile.key}"
    red, blue = login("red", "ada"), login("blue", "bob")
    store.shares.add("red", "profile", profile.key, with_team="blue", by="ada")
    for _ in range(2):
        assert "shared_by" not in red.get(url).json()
        assert blue.get(url).json()["shared_by"] == "red"
        assert red.get(url).headers["etag"] != blue.get(url).headers["etag"]
    # Its own measurement of the same key, which says something else, comes before the shared one.
    store.profiles.put("blue", profile.replaced(solver_version="blue's"))
    assert blue.get(url).json()["solver_version"] == "blue's"
    assert red.get(url).json() == profile.document


def test_plans_are_solved_from_a_kept_profile_for_its_team_alone(
    login: Login, profile: Profile, store: Store
) -> None:
    red, blue = login("red", "ada"), login("blue", "bob")
    body = {"profile_key": profile.key, "budgets": ["block_params=0.8"], "store": False}
    first = red.post("/v1/plans", json=body).json()
    again = red.post("/v1/plans", json=body).json()
    assert len(_services(red).profiles) == 1
    for plan in (first, again):
        plan["certificate"].pop("time_s")
    assert first == again
    assert blue.post("/v1/plans", json=body).status_code == 404
    share, _ = store.shares.add("red", "profile", profile.key, with_team="blue", by="ada")
    assert blue.post("/v1/plans", json=body).json()["created_by"] == "bob"
    store.shares.undo("red", share.id, by="ada")
    assert blue.post("/v1/plans", json=body).status_code == 404


def test_a_kept_plan_vanishes_with_its_share(login: Login, profile: Profile, store: Store) -> None:
    red, blue = login("red", "ada"), login("blue", "bob")
    body = {"profile_key": profile.key, "budgets": ["block_params=0.8"]}
    digest = red.post("/v1/plans", json=body).json()["digest"]
    share, _ = store.shares.add("red", "plan", digest, with_team="blue", by="ada")
    for name in (digest, digest[:8]):
        assert red.get(f"/v1/plans/{name}").json() == store.plans.document("red", digest)
        assert blue.get(f"/v1/plans/{name}").json() == store.plans.document("blue", digest)
    store.shares.undo("red", share.id, by="ada")
    assert blue.get(f"/v1/plans/{digest}").status_code == 404
    assert red.get(f"/v1/plans/{digest}").status_code == 200


def test_reads_do_not_wait_for_programs_being_solved(client: TestClient, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    url, solved = f"/v1/profiles/{profile.key}/sensitivity", threading.Event()
    cold = client.get(url)
    services, portal = _services(client), client.portal
    assert portal is not None
    # More than can be solved at once, so that others already wait.
    solving = [portal.start_task_soon(services.apart, solved.wait) for _ in range(4)]
    try:
        for path in ("/v1/jobs", "/v1/profiles", "/v1/plans", f"/v1/profiles/{profile.key}"):
            assert client.get(path).status_code == 200
        assert client.get(url).content == cold.content, "an answer that is kept needs no solver"
        assert not any(task.done() for task in solving)
    finally:
        solved.set()
    assert all(task.result() for task in solving)


def test_what_was_used_longest_ago_goes_first_and_the_bound_holds() -> None:
    kept: SharedCache[bytes] = SharedCache(100, len)
    for name in "abcd":
        kept.get(name, lambda: b"x" * 25)
    assert kept.get("a", lambda: b"new") == b"x" * 25
    kept.get("e", lambda: b"y" * 25)
    assert kept.peek("b") is None
    assert kept.peek("a") == b"x" * 25
    assert (len(kept), kept.weight) == (4, 100)
    assert kept.get("large", lambda: b"z" * 26) == b"z" * 26
    assert kept.peek("large") is None, "one answer must not drive out all others"
    assert kept.weight == 100


def test_what_would_differ_the_next_time_is_not_kept() -> None:
    kept: SharedCache[int] = SharedCache(100, lambda _: 1, lasts=lambda value: value > 0)
    assert [kept.get("a", lambda n=n: n) for n in (-1, -2, 3, 4)] == [-1, -2, 3, 3]  # type: ignore[misc]


def test_of_many_that_ask_at_once_one_makes_it() -> None:
    kept: SharedCache[int] = SharedCache(100, lambda _: 1)
    made, asked = [], threading.Barrier(8)

    def make() -> int:
        made.append(1)
        return len(made)

    def ask(_: int) -> int:
        asked.wait()
        return kept.get("a", make)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {1}
    assert len(made) == 1


def test_a_refusal_to_one_is_none_to_those_who_waited_for_him() -> None:
    kept: SharedCache[str] = SharedCache(100, len)
    inside, go = threading.Event(), threading.Event()

    def refused() -> str:
        inside.set()
        go.wait()
        raise PermissionError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, "a", refused)
        inside.wait()
        second = pool.submit(kept.get, "a", lambda: "allowed")
        go.set()
        assert isinstance(first.exception(), PermissionError)
        assert second.result() == "allowed"
