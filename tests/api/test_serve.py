"""The whole service as one command: a real process, its worker, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from allocator.base.errors import Conflict, InvalidInput, SchemaMismatch
from allocator.base.settings import Settings
from allocator.store import Store
from api import serve
from api.app import create_app
from tests.support.processes import group_is_empty, kill_group, start, wait_until, workers
from tests.support.stages import runs
from tests.support.teams import bearer, token

SERVE = "from allocator.base.settings import Settings; from api import serve; "
SERVE += "serve.run(Settings(), '127.0.0.1', 0, lambda url: print(url, flush=True))"
BODY = {"kind": "profile", "model": "local:tiny"}


@pytest.fixture
def service(settings: Settings, tiny_model: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start(settings, "-c", SERVE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    yield process, url
    kill_group(process)
    process.stdout.close()


def _finish(url: str, job: str) -> str:
    def ended() -> bool:
        return httpx.get(url + job).json()["finished_at"] is not None

    wait_until(ended, "the job ends")
    return str(httpx.get(url + job).json()["state"])


def test_dispatching_can_be_left_to_a_process_of_its_own(settings: Settings, tiny_model: str) -> None:
    alone = SERVE.replace("flush=True)", "flush=True), dispatch=False")
    process = start(settings, "-c", alone, stdout=subprocess.PIPE)
    assert process.stdout is not None
    other = None
    try:
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/readyz").json()["checks"]["dispatcher"] == "ok"
        job = httpx.post(f"{url}/v1/jobs", json=BODY).headers["location"]
        with closing(Store.open(settings)) as store:
            assert store.wakeups.due()
            other = start(settings, "-m", "api.cli", "dispatcher")
            assert _finish(url, job) == "succeeded"
    finally:
        for each in (process, other):
            if each is not None:
                kill_group(each)
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_works_and_leaves_nobody_behind(
    settings: Settings, service: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, url = service
    assert httpx.get(f"{url}/readyz").status_code == 200
    job = httpx.post(f"{url}/v1/jobs", json=BODY).headers["location"]
    assert _finish(url, job) == "succeeded"
    worker = min(workers(process.pid))
    with httpx.stream("GET", f"{url}{job}/events/stream") as stream:
        assert any("job.succeeded" in line for line in stream.iter_lines())
    process.send_signal(number)
    assert process.wait(30) == 0
    assert group_is_empty(worker)
    assert group_is_empty(process.pid)


def test_an_open_stream_does_not_hold_up_the_end(
    settings: Settings, service: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = service
    kill_group_of = _wait_for_worker(settings, process)
    os.killpg(kill_group_of, signal.SIGSTOP)  # the job will not end by itself
    job = httpx.post(f"{url}/v1/jobs", json=BODY).headers["location"]
    opened = threading.Event()

    def follow() -> None:
        with httpx.stream("GET", f"{url}{job}/events/stream", timeout=60) as stream:
            for _line in stream.iter_lines():
                opened.set()

    follower = threading.Thread(target=follow)
    follower.start()
    assert opened.wait(30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    follower.join(30)
    assert not follower.is_alive()
    assert group_is_empty(kill_group_of)


def _wait_for_worker(settings: Settings, service: subprocess.Popen[str]) -> int:
    wait_until(lambda: "ready" in (settings.logs_dir / "worker.log").read_text(), "the worker is ready")
    return min(workers(service.pid))


def test_a_killed_worker_is_replaced_and_the_job_completes(
    settings: Settings, service: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = service
    worker = _wait_for_worker(settings, process)
    os.killpg(worker, signal.SIGKILL)
    job = httpx.post(f"{url}/v1/jobs", json=BODY).headers["location"]
    assert _finish(url, job) == "succeeded"
    assert set(runs(settings, "end").values()) == {1}


def test_a_killed_service_takes_its_worker_with_it(
    settings: Settings, service: tuple[subprocess.Popen[str], str]
) -> None:
    process, _url = service
    worker = _wait_for_worker(settings, process)
    process.kill()
    wait_until(lambda: group_is_empty(worker), "the worker notices that its supervisor is gone")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_an_address_others_can_reach_is_refused(settings: Settings, host: str) -> None:
    with pytest.raises(InvalidInput, match="log in"):
        serve.run(settings, host, 0, print)


def test_with_a_token_it_may_listen_anywhere_and_answers_by_its_names(settings: Settings) -> None:
    store = Store.open(settings, create=True)
    secret = token(store, "default")
    store.close()
    process = start(settings, "-c", SERVE.replace("127.0.0.1", "0.0.0.0"), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), (settings.logs_dir / "process.log").read_text()
        assert httpx.get(f"{url}/v1/jobs").status_code == 401
        assert httpx.get(f"{url}/v1/jobs", headers=bearer(secret)).status_code == 200
        foreign = httpx.get(f"{url}/v1/jobs", headers={**bearer(secret), "Host": "gpu-box.example"})
        assert foreign.status_code == 421
    finally:
        kill_group(process)
        process.stdout.close()


def test_beyond_loopback_it_stays_closed_whatever_becomes_of_its_tokens(
    settings: Settings, store: Store
) -> None:
    client = TestClient(create_app(settings, store=store, tokens_needed=True), "http://127.0.0.1")
    assert not store.tokens.any()
    assert client.get("/v1/jobs").status_code == 401


def test_a_token_made_while_it_runs_closes_it(
    settings: Settings, service: tuple[subprocess.Popen[str], str]
) -> None:
    _process, url = service
    assert httpx.get(f"{url}/v1/jobs").status_code == 200
    store = Store.open(settings)
    secret = token(store, "default")
    store.close()
    assert httpx.get(f"{url}/v1/jobs").status_code == 401
    assert httpx.get(f"{url}/v1/jobs", headers=bearer(secret)).status_code == 200


def test_a_port_that_is_taken_is_said_so(
    settings: Settings, service: tuple[subprocess.Popen[str], str]
) -> None:
    port = int(service[1].rpartition(":")[2])
    with pytest.raises(Conflict, match="0 takes a free one"):
        serve.run(settings, "127.0.0.1", port, print)


def test_a_database_that_somebody_runs_is_not_upgraded_on_the_way(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/own.db"})
    with pytest.raises(SchemaMismatch, match="rankalloc db upgrade"):
        serve.run(own, "127.0.0.1", 0, print)


def test_answers_are_sent_at_once() -> None:
    """Without TCP_NODELAY an answer's body waits 40 ms for its head to be acknowledged."""

    async def accepted() -> int:
        with serve._listen("127.0.0.1", 0) as listener:
            found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                sock = writer.get_extra_info("socket")
                found.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                writer.close()

            async with await asyncio.start_server(connected, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return await found

    assert asyncio.run(accepted()) != 0
