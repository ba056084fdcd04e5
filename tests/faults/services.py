"""Faults of the service: killed between commit and publication, and two of it at once."""

from __future__ import annotations

import subprocess
import threading

import httpx
from ulid import ULID

from tests.faults.registry import fault
from tests.faults.world import SCRIPT, World, scripted

SERVE = "from allocator.base.settings import Settings; from api import serve; "
SERVE += "serve.run(Settings(), '127.0.0.1', 0, lambda url: print(url, flush=True))"

SUBMIT = """
import json, os, sys, threading, time
from allocator.jobs.submit import submit
from allocator.base.settings import Settings
from allocator.stages.request import Request
from allocator.store import Store
settings = Settings()
store = Store.open(settings)
threading.Thread(target=lambda: (time.sleep(float(sys.argv[1])), os._exit(9)), daemon=True).start()
for document in json.loads(sys.argv[2]):
    submit(store, settings, team="default", request=Request.stored("compress", document), created_by="faults")
"""


@fault("two-dispatchers")
def two_dispatchers(world: World) -> None:
    """Two dispatchers and two reconcilers, one killed at any time and replaced, over two workers, one killed"""
    dispatchers = [world.dispatcher(), world.dispatcher()]
    workers = [world.worker(), world.worker()]
    for _ in range(2):
        world.submit()
    world.submit(scripted(profile={"die": {"at": "unit"}}))
    world.pause(2.0)
    world.kill(dispatchers[0])
    world.kill(workers[0])
    world.pause(0.5)
    world.dispatcher()
    world.worker()
    world.wait_for_jobs()


@fault("submitter-killed")
def submitter_killed(world: World) -> None:
    """A process dies somewhere between beginning to submit and having published"""
    import json

    wanted = [world.request(SCRIPT).document for _ in range(3)]
    doomed = world.python("-c", SUBMIT, str(world.chance.uniform(0.0, 0.1)), json.dumps(wanted))
    doomed.wait()
    world.dispatcher()
    world.worker()
    for job in world.store.jobs.find("default").items:
        world.jobs[job.id] = SCRIPT
        items = world.store.items.of_stage(job.id, "prepare")
        assert len(items) == 1, "a job was stored by half"
    world.submit()
    world.wait_for_jobs()


@fault("api-killed", broker="redis")
def api_killed(world: World) -> None:
    """The API is killed while it takes jobs; what it had accepted runs, asking again makes no second one"""
    model = world.settings.home / "models" / "tiny"
    model.mkdir(parents=True)
    for name in ("config.json", "calibration.txt", "evaluation.txt"):
        (model / name).write_text("{}")
    world.with_settings(model_roots=[model.parent])
    world.worker()
    keys = [str(ULID()) for _ in range(6)]
    first, url = _api(world)
    accepted: dict[str, str] = {}
    client = threading.Thread(target=_submit_all, args=(url, keys, accepted))
    client.start()
    world.pause(0.3)
    world.kill(first)
    client.join()
    before = dict(accepted)
    _, url = _api(world)
    _submit_all(url, keys, accepted)
    assert {**accepted, **before} == accepted, "asking again made another job"
    stored = {job.id for job in world.store.jobs.find("default").items}
    assert stored == set(accepted.values()), "a job that nobody knows of"
    world.wait(lambda: world.over(*stored), "all accepted jobs end")
    for job_id in stored:
        assert world.store.jobs.by_id(job_id).state == "succeeded"


def _api(world: World) -> tuple[subprocess.Popen[str], str]:
    process = world.python("-c", SERVE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _submit_all(url: str, keys: list[str], accepted: dict[str, str]) -> None:
    body = {"kind": "profile", "model": "local:tiny"}
    for key in keys:
        try:
            answer = httpx.post(f"{url}/v1/jobs", json=body, headers={"Idempotency-Key": key}, timeout=30)
        except httpx.TransportError:
            return
        accepted[key] = answer.raise_for_status().json()["id"]
