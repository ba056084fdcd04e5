"""Profiles over REST, made by hand: listed, asked, drawn, taken away and brought in."""

from __future__ import annotations

import csv
import io
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.planning import plan_from_profile
from allocator.plan.queries import most_sensitive, removals
from allocator.store import Store
from api.app import create_app
from tests.support.profiles import SMALL, measured_profile


@pytest.fixture
def profile(store: Store) -> Profile:
    document = measured_profile()
    store.profiles.put("default", document)
    return document


@pytest.fixture
def url(profile: Profile) -> str:
    return f"/v1/profiles/{profile.key}"


def test_profiles_are_listed_and_fetched_once(client: TestClient, profile: Profile) -> None:
    (found,) = client.get("/v1/profiles", params={"model": "local:small"}).json()["items"]
    assert found["key"] == profile.key
    assert client.get("/v1/profiles", params={"calibration": "0" * 64}).json()["items"] == []
    answer = client.get(f"/v1/profiles/{profile.key}")
    assert answer.json() == profile.document
    again = client.get(f"/v1/profiles/{profile.key}", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_curves_come_as_json_and_csv(client: TestClient, profile: Profile) -> None:
    url = f"/v1/profiles/{profile.key}/curves"
    curves = client.get(url, params={"component": "ov", "layer": 1}).json()["curves"]
    assert [(curve["layer"], curve["component"]) for curve in curves] == [(1, "ov")]
    answer = client.get(url, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text == client.get(url, params={"format": "csv"}).text
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == sum(len(curve.ranks) for curve in profile.curves)
    first = profile.curves[0]
    assert float(rows[0]["loss_nats"]) == first.loss_nats[0]
    (point, *_) = first.measured
    assert float(rows[0]["measured_nats"]) == point.loss_nats
    assert (float(rows[0]["stderr_nats"]), rows[0]["windows"]) == (
        point.stderr_nats,
        str(point.windows),
    )
    assert rows[len(first.ranks) - 1]["windows"] == "", "the full rank is not measured"
    assert client.get(url, params={"component": "embedding"}).status_code == 422


def test_sensitivity_is_answered_from_the_curves(client: TestClient, profile: Profile, url: str) -> None:
    answer = client.get(f"{url}/sensitivity", params={"remove": 0.3, "limit": 2}).json()
    found = most_sensitive(removals(profile, remove=0.3)[0])
    assert answer["most_sensitive"] == [each.document for each in found[:2]]
    assert answer["hurts_least"][0]["loss_nats"] == found[-1].loss_nats
    plan = plan_from_profile(profile, ["block_params=0.7"])
    assert answer["whole_model"]["digest"] == plan.digest
    assert answer["whole_model"]["loss_nats"] == plan.predicted.loss_nats
    metric = {"metric": "memory@batch=2,context=100"}
    by_memory = client.get(f"{url}/sensitivity", params=metric)
    assert by_memory.json()["unit"] == "bytes"
    known = {"If-None-Match": by_memory.headers["etag"]}
    assert client.get(f"{url}/sensitivity", params=metric, headers=known).status_code == 304
    assert client.get(f"{url}/sensitivity", params={"remove": 0.99}).json()["whole_model"] is None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("sensitivity?remove=0", "remove"),
        ("sensitivity?remove=1", "remove"),
        ("sensitivity?remove=nan", "remove"),
        ("sensitivity?metric=speed", "metric"),
        ("sensitivity?metric=memory", "metric"),
        ("sensitivity?limit=0", "limit"),
        ("heatmap.svg?remove=2", "remove"),
        ("curves.svg?scale=cubic", "scale"),
        ("curves.svg?layer=2", "layer"),
        ("curves.svg?component=embedding", "component"),
    ],
)
def test_a_wrong_question_is_refused_by_name(client: TestClient, url: str, path: str, field: str) -> None:
    answer = client.get(f"{url}/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("path", ["heatmap.svg?remove=0.3", "curves.svg?scale=linear&layer=1&component=ov"])
def test_pictures_may_style_themselves_and_nothing_else(client: TestClient, url: str, path: str) -> None:
    answer = client.get(f"{url}/{path}")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ElementTree.fromstring(answer.text).tag.endswith("svg")
    known = {"If-None-Match": answer.headers["etag"]}
    assert client.get(f"{url}/{path}", headers=known).status_code == 304


def test_a_profile_travels_from_one_service_to_another(
    client: TestClient, profile: Profile, url: str, settings: Settings
) -> None:
    export = client.get(f"{url}/export")
    assert export.headers["content-type"] == "application/gzip"
    assert export.headers["content-disposition"] == (
        f'attachment; filename="small-{profile.key[:12]}.profile.json.gz"'
    )
    known = {"If-None-Match": export.headers["etag"]}
    assert client.get(f"{url}/export", headers=known).status_code == 304
    other = settings.model_copy(update={"home": settings.home / "other"})
    opened = Store.open(other, create=True)
    with TestClient(create_app(other, store=opened), base_url="http://127.0.0.1") as there:
        answer = there.post("/v1/profiles", content=export.content)
        assert answer.status_code == 201, answer.text
        assert answer.json()["stored"]
        imported = there.get(answer.headers["location"]).json()
        assert imported["curves"] == profile.document["curves"]
        assert imported["key"] == answer.json()["key"] != profile.key
        assert imported["provenance"]["original_key"] == answer.json()["original_key"] == profile.key
        assert imported["provenance"]["imported_by"] == "default"
        assert there.get(url).status_code == 404, "no job finds it under the key that it would ask for"
        again = there.post("/v1/profiles", content=export.content)
        assert (again.status_code, again.json()["stored"]) == (200, False)
        assert again.headers["location"] == answer.headers["location"]
        assert len(there.get("/v1/profiles").json()["items"]) == 1
        budgets = {"profile_key": imported["key"], "budgets": ["block_params=0.8"]}
        plan = there.post("/v1/plans", json=budgets).json()
        assert plan["ranks"] == plan_from_profile(profile, ["block_params=0.8"]).chosen.layers()
        assert there.get(f"{answer.headers['location']}/export").content == export.content
    opened.close()


@pytest.mark.parametrize("body", [b"", b"{}", export_profile(measured_profile())[:-9]])
def test_a_file_that_is_none_is_a_problem_and_stores_nothing(
    client: TestClient, store: Store, body: bytes
) -> None:
    answer = client.post("/v1/profiles", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["errors"][0]["field"] == "file"
    assert store.profiles.find("default").items == []


def test_the_limit_on_bodies_holds_for_files_too(client: TestClient) -> None:
    assert client.post("/v1/profiles", content=b"x" * ((1 << 20) + 1)).status_code == 413


@pytest.mark.parametrize("path", ["", "/curves", "/sensitivity", "/export", "/heatmap.svg", "/curves.svg"])
def test_another_team_s_profile_is_not_there(client: TestClient, store: Store, path: str) -> None:
    document = measured_profile(seed=1)
    store.profiles.put("others", document)
    assert client.get(f"/v1/profiles/{document.key}{path}").status_code == 404
    # Bringing in the same file makes this team's own copy and leaves the other team's alone.
    answer = client.post("/v1/profiles", content=export_profile(document))
    assert answer.status_code == 201
    assert [each["key"] for each in store.profiles.find("others").items] == [document.key]


def test_the_export_is_what_the_store_holds(client: TestClient, profile: Profile, url: str) -> None:
    assert import_profile(client.get(f"{url}/export").content).profile == profile
    assert profile.model.geometry == SMALL
