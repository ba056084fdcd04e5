"""A store here and a service there are asked by the same verbs, with the same arguments, and say the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.service import TeamStore, aliases, jobs, plans, profiles, shares
from allocator.stages.request import Request
from allocator.store import Store
from api.cli.sources import as_json, rows
from api.client import Client, InvalidRequest
from api.client.jobs import Jobs
from api.client.plans import Plans
from api.client.profiles import Profiles
from api.client.shares import Shares
from tests.support.latency import table_document
from tests.support.live import served
from tests.support.profiles import measured_profile
from tests.support.teams import add_member

BUDGETS = ["block_params=0.8"]
OF_A_CONNECTION = {
    "Jobs": {"artifacts", "remove_artifacts", "stream", "transfer", "wait"},
    "Plans": set(),
    "Profiles": {"curves", "sensitivity", "frontier", "export"},
    "Shares": set(),
}
"""What the client alone has: what follows from a profile is computed from the profile here."""


def _verbs(kind: type) -> dict[str, inspect.Signature]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name: inspect.signature(each) for name, each in functions if not name.startswith("_")}


@pytest.mark.parametrize(
    ("here", "there"),
    [(jobs.Jobs, Jobs), (plans.Plans, Plans), (profiles.Profiles, Profiles), (shares.Shares, Shares)],
    ids=lambda kind: kind.__module__.rpartition(".")[2],
)
def test_a_store_has_the_verbs_of_the_client(here: type, there: type) -> None:
    ours, theirs = _verbs(here), _verbs(there)
    missing = set(theirs) - set(ours)
    assert missing == OF_A_CONNECTION[there.__name__]
    for name in (set(theirs) & set(ours)) - {"submit"}:  # the client makes the request of its arguments
        parameters = ours[name].parameters
        if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            query = plans.PlanQuery.__annotations__ if name == "find" else {}
            parameters = {**parameters, **dict.fromkeys(query)}
        assert set(theirs[name].parameters) <= set(parameters), name
    assert issubclass(plans.Plans, aliases.PlanAliases)


@pytest.fixture
def team(store: Store, settings: Settings) -> TeamStore:
    return TeamStore(store, settings, team="default", by="anonymous")


@pytest.fixture
def client(store: Store, settings: Settings, scripted: None, tiny_model: str) -> Iterator[Client]:
    with served(settings, store) as address, Client(address) as connected:
        yield connected


def _without_nulls(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: _without_nulls(value) for name, value in answer.items() if value is not None}
    return [_without_nulls(value) for value in answer] if isinstance(answer, list) else answer


def _both(question: Callable[[Any], Any], team: TeamStore, client: Client) -> None:
    """The answers here and there are the same; a service also writes what is null."""
    here, there = (_without_nulls(as_json(question(source))) for source in (team, client))
    if isinstance(there, dict):
        there.pop("links", None)  # a server's own
    assert here == there


def test_both_say_the_same(team: TeamStore, client: Client, store: Store, tiny_model: str) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    add_member(store, "others", "bob")
    plan, other = (team.plans.create(profile.key, budgets).digest for budgets in (BUDGETS, ["params=0.9"]))
    client.plans.add_label(plan, "candidate")
    team.plans.comment(plan, "Twice as good.")
    assert client.plans.set_alias("prod", other).version == 1
    assert team.plans.set_alias("prod", plan[:10], version=1).version == 2
    team.shares.add("plan", plan, with_team="others")

    assert client.plans.create(profile.key, BUDGETS)["digest"] == plan
    for question in (
        lambda source: rows(source.profiles.find()),
        lambda source: source.profiles.get(profile.key[:8]),
        lambda source: rows(source.plans.find(metric="block_params", max_loss_nats=9.0)),
        lambda source: source.plans.get("alias:prod"),
        lambda source: source.plans.explanation(plan[:8]),
        lambda source: source.plans.measurements(plan),
        lambda source: source.plans.lineage(plan),
        lambda source: source.plans.notes("alias:prod"),
        lambda source: source.plans.diff(plan, other),
        lambda source: rows(source.plans.aliases()),
        lambda source: source.plans.alias("prod"),
        lambda source: rows(source.plans.alias_history("prod")),
        lambda source: rows(source.shares.find(direction="given")),
    ):
        _both(question, team, client)


def test_a_job_is_the_same_job_here_and_there(team: TeamStore, client: Client, tiny_model: str) -> None:
    request = Request(kind="profile", model=tiny_model, budgets=[])
    job = team.jobs.submit(request, idempotency_key="once")
    assert client.jobs.submit("profile", tiny_model, idempotency_key="once").id == job.id
    for question in (
        lambda source: source.jobs.get(job.id),
        lambda source: source.jobs.events(job.id, after=1),
        lambda source: source.jobs.cancel(job.id),
        lambda source: source.jobs.get(job.id),
    ):
        _both(question, team, client)
    assert [row.id for row in team.jobs.find(state="cancelled")] == [job.id]


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        ({"digest": "0" * 64}, "digest", "the hash of the rest"),
        ({"machine": {"name": "a CPU"}}, "machine.device", "found nothing"),
        ({"timings": []}, "timings", "at least 1 item"),
        ({"note": "x" * 513}, "note", "at most 512 printable characters"),
        ({"note": [0] * 140_000}, "file", "at most 262,144 bytes"),
    ],
)
def test_a_latency_table_is_refused_alike_here_and_there(
    team: TeamStore, client: Client, store: Store, changed: dict[str, Any], field: str, said: str
) -> None:
    document = {**table_document(), **changed}
    with pytest.raises(InvalidInput, match=said) as here:
        team.plans.store_latency_table(document)
    with pytest.raises(InvalidRequest) as there:
        client.plans.store_latency_table(document)
    assert there.value.problem["detail"] == here.value.detail
    assert there.value.problem["errors"][0]["field"] == here.value.fields[0].field == field
    assert store.latency_tables.find("default").items == []


def test_a_latency_table_has_one_key_here_and_there(team: TeamStore, client: Client, store: Store) -> None:
    """Also one without a key, which is its content's hash."""
    key = team.plans.store_latency_table(table_document())
    assert client.plans.store_latency_table({**table_document(), "digest": key}) == key
    assert [row["digest"] for row in store.latency_tables.find("default").items] == [key]
