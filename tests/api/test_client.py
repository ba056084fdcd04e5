"""The Python client against a real server, through a network that fails on demand."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from allocator.base.settings import Settings
from allocator.store import Store
from api import client as errors
from api.client import Client
from api.client.download import place
from tests.support.jobs import shown_event, shown_job
from tests.support.live import served, working
from tests.support.processes import ROOT
from tests.support.profiles import measured_profile

BUDGETS = ["block_params=0.8"]


class Network(httpx.BaseTransport):
    """The real one, but for what a test has asked for: answers instead of the server's, and streams that break."""

    def __init__(self) -> None:
        self.real = httpx.HTTPTransport()
        self.instead: list[Callable[[httpx.Request], httpx.Response]] = []
        """Taken one by one, each in place of an answer; None there would be the real one."""
        self.break_after: list[int] = []
        """Bytes after which the next answers' bodies break off."""
        self.seen: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if self.instead:
            return self.instead.pop(0)(request)
        response = self.real.handle_request(request)
        if self.break_after:
            stream = Breaking(response.stream, self.break_after.pop(0))
            return httpx.Response(response.status_code, headers=response.headers, stream=stream)
        return response

    def close(self) -> None:
        self.real.close()


class Breaking(httpx.SyncByteStream):
    def __init__(self, stream: Any, after: int) -> None:
        self._stream, self._after = stream, after

    def __iter__(self) -> Iterator[bytes]:
        left = self._after
        for block in self._stream:
            yield block[:left]
            left -= len(block)
            if left <= 0:
                raise httpx.ReadError("connection reset")

    def close(self) -> None:
        self._stream.close()


def refusing(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, headers=headers, text="busy", request=request)


def dropping(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited each time."""
    found: list[float] = []
    monkeypatch.setattr("api.client.retrying.time.sleep", found.append)
    return found


@pytest.fixture
def url(settings: Settings, store: Store, scripted: None, tiny_model: str) -> Iterator[str]:
    with served(settings, store) as address:
        yield address


@pytest.fixture
def client(url: str, network: Network, pauses: list[float]) -> Iterator[Client]:
    with Client(url, transport=network) as made:
        yield made


@pytest.fixture
def key(store: Store) -> str:
    profile = measured_profile()
    store.profiles.put("default", profile)
    return str(profile.key)


def test_a_job_is_submitted_watched_and_its_files_fetched(
    client: Client, settings: Settings, store: Store, tmp_path: Path
) -> None:
    told: list[str] = []
    job = client.jobs.submit("compress", "local:tiny", BUDGETS)
    with working(settings, store):
        done = client.jobs.wait(job.id, on_event=lambda event: told.append(event.type))
    assert done.state == "succeeded"
    assert told == [event.type for event in store.events.list("default", job.id)]
    assert [each.id for each in client.jobs.find(state="succeeded")] == [job.id]
    assert client.version()["api"] == "v1"


def test_a_stream_that_breaks_goes_on_where_it_was(
    client: Client, network: Network, settings: Settings, store: Store
) -> None:
    job = client.jobs.submit("profile", "local:tiny")
    with working(settings, store):
        client.jobs.wait(job.id)
    whole = [event.seq for event in client.jobs.events(job.id)]
    network.break_after = [700]
    network.seen.clear()
    assert [event.seq for event in client.jobs.stream(job.id)] == whole
    streams = [request for request in network.seen if request.url.path.endswith("/stream")]
    assert len(streams) == 2
    assert int(streams[1].headers["last-event-id"]) > 0


def test_without_streams_events_are_asked_for(
    client: Client, network: Network, settings: Settings, store: Store
) -> None:
    job = client.jobs.submit("profile", "local:tiny")
    with working(settings, store):
        client.jobs.wait(job.id)
    whole = [event.seq for event in client.jobs.events(job.id)]
    network.instead = [dropping, refusing(502), refusing(200)]
    network.seen.clear()
    assert [event.seq for event in client.jobs.stream(job.id, after=2)] == whole[2:]
    assert sum(request.url.path.endswith("/stream") for request in network.seen) == 3


def test_a_job_that_fails_is_raised_with_its_reason(client: Client, settings: Settings, store: Store) -> None:
    job = client.jobs.submit("profile", "local:tiny")
    client.jobs.cancel(job.id)
    with pytest.raises(errors.JobFailed, match="cancelled") as caught:
        client.jobs.wait(job.id)
    assert caught.value.job.id == job.id
    again = client.jobs.retry(job.id)
    assert again.retry_of == job.id
    with pytest.raises(errors.Conflict):
        client.jobs.retry(again.id)
    with pytest.raises(errors.WaitedTooLong):
        client.jobs.wait(again.id, timeout_s=0)


def test_a_submission_is_tried_again_and_makes_one_job(
    client: Client, network: Network, store: Store, pauses: list[float]
) -> None:
    lost: list[httpx.Response] = []

    def answer_lost(request: httpx.Request) -> httpx.Response:
        """The server gets the request, and its answer gets lost."""
        lost.append(network.real.handle_request(request))
        lost[0].read()
        raise httpx.ReadError("connection reset")

    network.instead = [dropping, answer_lost, refusing(503), refusing(429, **{"Retry-After": "7"})]
    job = client.jobs.submit("profile", "local:tiny")
    assert lost[0].status_code == 202
    assert [each.id for each in store.jobs.find("default").items] == [job.id]
    assert len({request.headers["idempotency-key"] for request in network.seen}) == 1
    assert len(pauses) == 4
    assert all(0 <= pause <= 0.25 * 2**attempt for attempt, pause in enumerate(pauses[:3]))
    assert 7 <= pauses[3] <= 7 + 2
    first = client.jobs.submit("profile", "local:tiny", idempotency_key="mine")
    assert client.jobs.submit("profile", "local:tiny", idempotency_key="mine").id == first.id
    with pytest.raises(errors.InvalidRequest):
        client.jobs.submit("plan", "local:tiny", BUDGETS, idempotency_key="mine")


def test_what_may_not_happen_twice_is_not_tried_again(
    client: Client, network: Network, key: str, pauses: list[float]
) -> None:
    plan = client.plans.create(key, BUDGETS)["digest"]
    network.instead = [dropping]
    with pytest.raises(errors.NoAnswer):
        client.plans.comment(plan, "once")
    network.instead = [refusing(503)]
    with pytest.raises(errors.Unavailable):
        client.plans.set_alias("prod", plan)
    assert pauses == []
    network.instead = [refusing(429)]
    assert client.plans.comment(plan, "turned away at the door").text == "turned away at the door"
    network.instead = [dropping] * 5
    with pytest.raises(errors.NoAnswer):
        client.plans.get(plan)
    assert len(pauses) == 1 + client.retries


@pytest.mark.parametrize(
    ("act", "kind", "code"),
    [
        (lambda client: client.jobs.get("none"), errors.NotFound, "not_found"),
        (lambda client: client.plans.get("a" * 64), errors.NotFound, "not_found"),
        (lambda client: client.jobs.submit("melt", "local:tiny"), errors.InvalidRequest, "invalid_input"),
        (
            lambda client: client.jobs.submit("plan", "local:tiny", ["x"]),
            errors.InvalidRequest,
            "budget_syntax",
        ),
        (lambda client: client.request("PATCH", "/v1/jobs"), errors.Refused, "method_not_allowed"),
    ],
)
def test_refusals_are_exceptions_with_the_whole_problem(
    client: Client, act: Callable[[Client], object], kind: type[errors.Refused], code: str
) -> None:
    with pytest.raises(kind) as caught:
        act(client)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.problem["request_id"]
    assert str(caught.value) == caught.value.problem["detail"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, errors.Unauthorized), (403, errors.Forbidden), (500, errors.ServerError), (418, errors.Refused)],
)
def test_answers_of_others_are_refusals_too(
    client: Client, network: Network, status: int, kind: type[errors.Refused]
) -> None:
    network.instead = [refusing(status)]
    with pytest.raises(kind, match="busy"):
        client.version()


def test_the_token_goes_with_every_request_and_to_no_other_server(
    url: str, network: Network, pauses: list[float]
) -> None:
    with Client(url, token="secret", transport=network) as client:
        client.version()
        network.instead = [
            lambda request: httpx.Response(
                307, headers={"Location": "http://elsewhere.example/"}, request=request
            )
        ]
        client.request("GET", "/v1/version")
    assert [request.headers["authorization"] for request in network.seen] == ["Bearer secret"] * 2
    with pytest.raises(errors.ClientError, match="not an address"):
        Client("ftp://x")


def test_plans_are_made_named_compared_and_annotated(client: Client, key: str) -> None:
    tight, loose = (client.plans.create(key, [f"block_params={share}"]) for share in (0.6, 0.9))
    made = client.plans.set_alias("prod", tight["digest"])
    with pytest.raises(errors.PreconditionFailed):
        client.plans.set_alias("prod", loose["digest"])
    moved = client.plans.set_alias("prod", loose["digest"], version=made.version)
    with pytest.raises(errors.PreconditionFailed, match="changed meanwhile"):
        client.plans.set_alias("prod", tight["digest"], version=made.version)
    assert client.plans.get("alias:prod") == loose
    back = client.plans.roll_back("prod", version=moved.version)
    assert back.digest == tight["digest"] == client.plans.alias("prod").digest
    assert client.plans.roll_back("prod", version=back.version, to=2).digest == loose["digest"]
    assert [change.action for change in client.plans.alias_history("prod")] == [
        "rollback",
        "rollback",
        "set",
        "set",
    ]
    assert [alias.name for alias in client.plans.aliases(plan=loose["digest"])] == ["prod"]
    diff = client.plans.diff("alias:prod", tight["digest"][:10], context=4096)
    assert diff.changes[0].from_ > diff.changes[0].to
    assert diff.kv_bytes is not None
    client.plans.add_label("alias:prod", "good")
    client.plans.comment("alias:prod", "fine")
    notes = client.plans.notes(loose["digest"])
    assert ([each.label for each in notes.labels], [each.text for each in notes.comments]) == (
        ["good"],
        ["fine"],
    )
    assert [each.digest for each in client.plans.find(label="good")] == [loose["digest"]]
    assert len(list(client.plans.find(metric="block_params"))) == 2
    client.plans.remove_label("alias:prod", "good")
    client.plans.delete_alias("prod", version=4)
    assert list(client.plans.aliases()) == []
    assert client.plans.lineage(tight["digest"]).profile.key == key
    assert client.plans.explanation(tight["digest"]).components
    assert client.plans.measurements(tight["digest"]) == []
    with pytest.raises(errors.BudgetInfeasible) as caught:
        client.plans.create(key, ["block_params=0.01"])
    assert caught.value.problem["achievable"]


def test_profiles_are_asked_and_carried(client: Client, key: str, store: Store) -> None:
    assert [each.key for each in client.profiles.find(model="local:small")] == [key]
    assert client.profiles.get(key[:8]) == store.profiles.document("default", key)
    assert len(client.profiles.curves(key, layer=0)) == 3
    assert client.profiles.sensitivity(key, limit=2).most_sensitive
    assert len(client.profiles.frontier(key, ["params"], points=3).points) == 3
    taken = client.profiles.import_(client.profiles.export(key))
    assert (taken.original_key, taken.stored) == (key, True)


@pytest.fixture
def job_with_files(client: Client, settings: Settings, store: Store) -> str:
    """A job, done, whose row lists a large file and a small one."""
    job = client.jobs.submit("profile", "local:tiny")
    folder = settings.artifacts_dir / job.id
    contents = {"compact/model.safetensors": bytes(range(256)) * 8192, "report.json": b"{}"}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        store.artifacts.add("default", job.id, name, len(data), sha256, f"{job.id}/{name}")
    with working(settings, store):
        client.jobs.wait(job.id)
    return job.id


def test_an_interrupted_download_goes_on_and_a_second_one_fetches_nothing(
    client: Client, network: Network, settings: Settings, job_with_files: str, tmp_path: Path
) -> None:
    files = client.jobs.artifacts(job_with_files)
    assert len(files) == 2
    out = tmp_path / "out"
    network.seen.clear()
    # The list of files, which comes whole, then one break within the first file.
    network.break_after = [10**6, 1_000_000]
    paths = client.jobs.download(job_with_files, out)
    weights = out / "compact" / "model.safetensors"
    assert weights.read_bytes() == bytes(range(256)) * 8192
    assert sorted(paths) == sorted(path for path in out.rglob("*") if path.is_file()), "no leftovers"
    ranges = [request.headers.get("range") for request in network.seen[1:]]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 1_000_000
    network.seen.clear()
    client.jobs.download(job_with_files, out)
    assert len(network.seen) == 1, "only the list is asked for"


def test_a_file_that_is_not_what_was_promised_is_not_put_in_place(
    client: Client, settings: Settings, job_with_files: str, tmp_path: Path
) -> None:
    file = settings.artifacts_dir / job_with_files / "report.json"
    for harm in (b"{]", b"{}{}"):
        file.write_bytes(harm)
        with pytest.raises(errors.DownloadCorrupt, match=r"report\.json"):
            client.jobs.download(job_with_files, tmp_path / "out")
        assert not (tmp_path / "out" / "report.json").exists()
        assert not list((tmp_path / "out").glob(".*"))
    removed = client.jobs.remove_artifacts(job_with_files)
    assert all(each.removed_at for each in removed)
    assert client.jobs.download(job_with_files, tmp_path / "empty") == []


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a/./b", "a\\b", "c:x", "a\0b", "a/", "..", "./a"],
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.DownloadCorrupt, match="no name of a file"):
        place(tmp_path, name)
    assert place(tmp_path, "compact/a..b.txt") == tmp_path / "compact" / "a..b.txt"


def test_no_link_in_the_folder_leads_out_of_it(client: Client, job_with_files: str, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "compact").symlink_to(elsewhere)
    with pytest.raises(errors.DownloadCorrupt, match="leads out"):
        client.jobs.download(job_with_files, out)
    assert list(elsewhere.iterdir()) == []


def test_the_client_imports_neither_torch_nor_the_server() -> None:
    code = (
        "import sys, api.client\n"
        "assert not {'torch', 'transformers', 'fastapi', 'celery', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_later_service_adds_to_a_job_is_left_alone() -> None:
    job = {**shown_job().document, "later": 1}
    event = {**shown_event(1).document, "later": 1}
    answers = {
        "/v1/jobs": {"items": [job], "next_cursor": None, "later": 1},
        "/v1/jobs/J": job,
        "/v1/jobs/J/events": {"items": [event]},
    }
    network = httpx.MockTransport(lambda request: httpx.Response(200, json=answers[request.url.path]))
    with Client("http://service", transport=network) as client:
        assert list(client.jobs.find()) == [client.jobs.get("J")] == [shown_job()]
        assert client.jobs.events("J") == [shown_event(1)]
