"""The service under load: many clients reading and planning while a worker is busy, beside a bare FastAPI application.

``python -m benchmarks.service [--clients 50] [--seconds 20]`` prints the table; ``benchmarks.run service`` fills the docs.
Server, worker and clients share the machine's cores, so the figures are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from allocator.plan.files.portable import export_profile
from tests.support.profiles import SMALL, measured_profile

PLANNED = SMALL.replaced(
    family="gpt_neox",
    layers=32,
    hidden=1024,
    heads=32,
    kv_heads=32,
    head_dim=32,
    intermediate=4096,
    qk_step=1,
    total_params=600_000_000,
)
"""96 components; 32 candidate ranks for QK and OV, 64 for the MLP."""
BUDGETS = ("block_params", "kv_bytes_per_token")
THINK_S = 0.5
"""A client's mean pause between two requests, exponentially distributed: fifty people who click twice a second."""
READ_TARGET_S = 0.1
PLAN_TARGET_S = 0.15
HELLO = "hello"


@dataclass
class Load:
    """The answers: seconds by kind of request, and everything that was no 2xx or 304."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@contextmanager
def server(arguments: list[str], home: Path) -> Iterator[str]:
    """A process that prints a JSON document with its ``url`` when it is ready; stopped with all it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "RANKALLOC_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        lines: list[str] = []
        while (line := process.stdout.readline()) and not (lines and line.startswith("}")):
            lines.append(line)
        if not line:
            raise SystemExit(f"{arguments} did not start")
        yield json.loads("".join([*lines, line]))["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def hello() -> None:
    """The bare application: what any request costs on this machine."""
    import socket

    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    def greet() -> dict[str, str]:
        return {"hello": "world"}

    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}, indent=1) + "\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def stored(client: httpx.Client) -> str:
    """Give the store the profile to plan from; its key."""
    content = export_profile(measured_profile(PLANNED))
    headers = {"content-type": "application/gzip"}
    return str(client.post("/v1/profiles", content=content, headers=headers).raise_for_status().json()["key"])


def busy(client: httpx.Client) -> str:
    """Keep the worker busy for as long as the load lasts; the job's id."""
    body = {"kind": "profile", "model": "local:pylm-llama", "effort": "thorough"}
    job = str(client.post("/v1/jobs", json=body).raise_for_status().json()["id"])
    while client.get(f"/v1/jobs/{job}").json()["stage"] == "prepare":
        time.sleep(0.2)
    return job


def question(key: str, generator: random.Random) -> dict[str, Any]:
    """Two budgets that nobody has asked for yet."""
    budgets = [f"{metric}={generator.uniform(0.6, 0.9):.6f}" for metric in BUDGETS]
    return {"profile_key": key, "budgets": budgets}


def alone(client: httpx.Client, key: str, plans: int) -> list[float]:
    """Seconds of single plans over REST, one after the other: from request to document."""
    generator, durations = random.Random(1), []
    for _ in range(plans):
        started = time.perf_counter()
        client.post("/v1/plans", json=question(key, generator)).raise_for_status()
        durations.append(time.perf_counter() - started)
    return durations


def requests(
    key: str, job: str, digest: str
) -> dict[str, Callable[[httpx.AsyncClient, random.Random], Awaitable[Any]]]:
    """Kind -> one request. Reads are four times as frequent as plans."""
    reads = {
        "jobs": "/v1/jobs",
        "job": f"/v1/jobs/{job}",
        "profiles": "/v1/profiles",
        "sensitivity": f"/v1/profiles/{key}/sensitivity",
        "plans": "/v1/plans?limit=20",
        "plan": f"/v1/plans/{digest}",
    }

    def read(path: str) -> Callable[[httpx.AsyncClient, random.Random], Awaitable[Any]]:
        return lambda client, _: client.get(path)

    kinds = {name: read(path) for name, path in reads.items()}
    kinds["solve"] = lambda client, generator: client.post("/v1/plans", json=question(key, generator))
    return kinds


async def load(url: str, kinds: dict[str, Any], clients: int, seconds: float, think_s: float) -> Load:
    """So many clients, each with its own connection, until the time is over; each asks once at least.

    They are made beforehand, and without certificates: both would hold up the requests of those that have begun.
    """
    outcome = Load()
    connections = [httpx.AsyncClient(base_url=url, timeout=30, verify=False) for _ in range(clients)]  # noqa: S501
    end = time.perf_counter() + seconds

    async def client(number: int, connection: httpx.AsyncClient) -> None:
        generator = random.Random(number)
        async with connection:
            await asyncio.sleep(generator.uniform(0, think_s))
            while True:
                kind = generator.choices(list(kinds), [1 if name == "solve" else 2 for name in kinds])[0]
                started = time.perf_counter()
                try:
                    response = await kinds[kind](connection, generator)
                    if response.is_error:
                        outcome.errors.append(f"{kind}: {response.status_code} {response.text[:200]}")
                except httpx.HTTPError as error:
                    outcome.errors.append(f"{kind}: {type(error).__name__}")
                outcome.seconds.setdefault(kind, []).append(time.perf_counter() - started)
                if time.perf_counter() >= end:
                    return
                await asyncio.sleep(generator.expovariate(1 / think_s))

    await asyncio.gather(*(client(*numbered) for numbered in enumerate(connections)))
    return outcome


def _row(name: str, seconds: list[float], errors: int, target_s: float | None) -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "name": name,
        "requests": len(ordered),
        "errors": errors,
        "median_s": statistics.median(ordered),
        "p95_s": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "target_s": target_s,
    }


def run(clients: int = 50, seconds: float = 20, plans: int = 40) -> list[dict[str, Any]]:
    """The bare application, single plans, then the whole load."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with server(["benchmarks.service", "--hello"], Path(folder)) as url:
            kinds = {HELLO: lambda client, _: client.get("/")}
            outcome = asyncio.run(load(url, kinds, clients, seconds / 2, THINK_S))
            rows.append(_row("bare FastAPI", outcome.seconds[HELLO], len(outcome.errors), None))
        with server(["api.cli", "serve", "--port", "0", "--json"], Path(folder) / "home") as url:
            with httpx.Client(base_url=url, timeout=60) as client:
                key = stored(client)
                rows.append(
                    _row(
                        "one plan at a time, nothing else running",
                        alone(client, key, plans),
                        0,
                        PLAN_TARGET_S,
                    )
                )
                job = busy(client)
                digest = client.post("/v1/plans", json=question(key, random.Random(2))).json()["digest"]
                outcome = asyncio.run(load(url, requests(key, job, digest), clients, seconds, THINK_S))
                client.post(f"/v1/jobs/{job}/cancel")
            sys.stderr.writelines(f"{error}\n" for error in outcome.errors[:20])
            sys.stderr.writelines(
                f"{_row(kind, durations, 0, None)}\n" for kind, durations in outcome.seconds.items()
            )
            reads = [s for kind, durations in outcome.seconds.items() if kind != "solve" for s in durations]
            solved = outcome.seconds["solve"]
            count = sum(error.startswith("solve") for error in outcome.errors)
            rows.append(
                _row(
                    f"{clients} clients, worker busy: reads",
                    reads,
                    len(outcome.errors) - count,
                    READ_TARGET_S,
                )
            )
            rows.append(_row(f"{clients} clients, worker busy: plans", solved, count, None))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; times in ms and as multiples of the bare application's own, and whether the stated target was met."""
    bare = rows[0]
    lines = [
        "| | requests | errors | median, ms | 95 %, ms | of bare | target | within |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        target = "" if row["target_s"] is None else f"95 % within {1000 * row['target_s']:.0f} ms"
        within = "" if row["target_s"] is None else ("yes" if row["p95_s"] <= row["target_s"] else "no")
        lines.append(
            f"| {row['name']} | {row['requests']:,} | {row['errors']} | {1000 * row['median_s']:.1f} "
            f"| {1000 * row['p95_s']:.1f} | {row['median_s'] / bare['median_s']:.1f} / {row['p95_s'] / bare['p95_s']:.1f} "
            f"| {target} | {within} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print, or be the bare application."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--hello", action="store_true", help="serve the bare application")
    options = parser.parse_args(argv)
    if options.hello:
        hello()
        return
    rows = run(options.clients, options.seconds)
    sys.stderr.writelines(f"{row}\n" for row in rows)
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
