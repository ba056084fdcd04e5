"""Does the memory of the API and the dispatcher grow? One process with both under steady load for some minutes.

``python -m benchmarks.soak --minutes 6`` prints slopes of resident memory over each third, and over the second half, when
caches and pools are warm, of what Python has allocated (tracemalloc) and the lines that hold more at the end than after the
first third. ``--untraced`` leaves tracemalloc out, whose own notes take memory too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
_LINES = 12
BODY = {"kind": "plan", "model": "local:m", "budgets": ["params=0.8"]}


def _snapshot() -> tracemalloc.Snapshot:
    """The memory that is held, without what only waits to be collected."""
    gc.collect()
    return tracemalloc.take_snapshot()


def _growth(before: tracemalloc.Snapshot) -> list[str]:
    """The lines that hold most more than they did."""
    now = _snapshot()
    statistics = now.compare_to(before, "lineno")[:_LINES]
    return [
        f"{line.traceback[0]}: {line.size_diff / 1024:+.1f} KiB in {line.count_diff:+d}"
        for line in statistics
    ]


def serve(home: Path, *, traced: bool) -> None:
    """The service without a worker, so that jobs queue up and are cancelled; a sample of its memory every second."""
    from allocator.base.settings import Settings
    from allocator.jobs.machine.dispatcher import Dispatcher
    from allocator.store import Store
    from api.app import create_app

    settings = Settings(home=home, model_roots=[home / "models"])
    settings.prepare_home()
    store = Store.open(settings, create=True)
    dispatcher = Dispatcher(store, settings)
    app = create_app(settings, store=store, wake=dispatcher.wake)
    import uvicorn

    if traced:
        tracemalloc.start()
    dispatcher.start()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    started = time.monotonic()

    def compare() -> None:
        """At a first line from the load remember what is held, at a second say what is held more."""
        sys.stdin.readline()
        before = _snapshot() if traced else None
        sys.stdin.readline()
        print(json.dumps({"growth": [] if before is None else _growth(before)}), flush=True)

    def sample() -> None:
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"port": port}), flush=True)
        threading.Thread(target=compare, daemon=True).start()
        while True:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
            row = {
                "s": time.monotonic() - started,
                "rss": resident,
                "traced": tracemalloc.get_traced_memory()[0],
            }
            print(json.dumps(row), flush=True)
            time.sleep(1)

    threading.Thread(target=sample, daemon=True).start()
    server.run()


def load(client: httpx.Client, profile: bytes, seconds: float, warm: Callable[[], None]) -> dict[str, int]:
    """The work of a team, over and over; the answers by status. ``warm`` is called after a third of the time."""
    until = time.monotonic() + seconds
    warm_at = until - seconds * 2 / 3
    statuses: dict[str, int] = {}
    key = client.post("/v1/profiles", content=profile).json()["key"]
    budget = 0
    while time.monotonic() < until:
        if time.monotonic() > warm_at:
            warm()
            warm_at = until
        budget = budget % 60 + 1
        job = client.post("/v1/jobs", json=BODY).headers["location"]
        answers = [
            client.get(job),
            client.get("/v1/jobs"),
            client.get(f"{job}/events"),
            client.get("/v1/profiles"),
            client.get(f"/v1/profiles/{key}"),
            client.get(f"/v1/profiles/{key}/sensitivity"),
            client.post("/v1/plans", json={"profile_key": key, "budgets": [f"block_params=0.{30 + budget}"]}),
            client.post("/v1/jobs", json={**BODY, "model": "local:../x"}),
            client.post("/v1/profiles", content=profile[:-9]),
            client.get("/metrics"),
            client.post(f"{job}/cancel"),
        ]
        for answer in answers:
            statuses[str(answer.status_code)] = statuses.get(str(answer.status_code), 0) + 1
    return statuses


def slope_kib_per_minute(
    rows: list[dict[str, float]], key: str, share: tuple[float, float] = (0.5, 1.0)
) -> float:
    """By least squares, over this part of the time."""
    low, high = (rows[0]["s"] + fraction * (rows[-1]["s"] - rows[0]["s"]) for fraction in share)
    part = [row for row in rows if low <= row["s"] <= high]
    times, values = np.array([row["s"] for row in part]) / 60, np.array([row[key] for row in part]) / 1024
    return round(float(np.polyfit(times, values, 1)[0]), 1)


def soak(minutes: float, *, traced: bool = True) -> dict[str, Any]:
    from allocator.plan.files.portable import export_profile
    from tests.support.profiles import measured_profile

    with tempfile.TemporaryDirectory(prefix="ra-soak-") as folder:
        home = Path(folder) / "home"
        model = home / "models" / "m"
        model.mkdir(parents=True)
        for name in ("config.json", "calibration.txt"):
            (model / name).write_text("{}")
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.soak",
                "--serve",
                str(home),
                *([] if traced else ["--untraced"]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        assert server.stdin is not None

        def ask() -> None:
            print(file=server.stdin, flush=True)

        try:
            port = json.loads(server.stdout.readline())["port"]
            documents: list[dict[str, Any]] = []
            reader = threading.Thread(target=lambda: documents.extend(map(json.loads, server.stdout or [])))
            reader.start()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                statuses = load(client, export_profile(measured_profile()), 60 * minutes, ask)
                rows = [
                    document for document in documents if "rss" in document
                ]  # before the comparison, which takes memory itself
                ask()
                while not any("growth" in document for document in documents):
                    time.sleep(0.1)
        finally:
            server.terminate()
            server.wait()
        reader.join()
    (growth,) = (document["growth"] for document in documents if "growth" in document)
    return {
        "minutes": minutes,
        "requests": sum(statuses.values()),
        "statuses": statuses,
        "rss_mib": [round(rows[0]["rss"] / 2**20, 1), round(rows[-1]["rss"] / 2**20, 1)],
        "rss_kib_per_minute_by_third": [
            slope_kib_per_minute(rows, "rss", (n / 3, (n + 1) / 3)) for n in range(3)
        ],
        "rss_kib_per_minute": slope_kib_per_minute(rows, "rss"),
        "traced_mib": [round(rows[0]["traced"] / 2**20, 2), round(rows[-1]["traced"] / 2**20, 2)],
        "traced_kib_per_minute": slope_kib_per_minute(rows, "traced"),
        "growth_since_first_third": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--untraced", action="store_true", help="without tracemalloc")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, traced=not arguments.untraced)
    else:
        print(json.dumps(soak(arguments.minutes, traced=not arguments.untraced), indent=2))


if __name__ == "__main__":
    main()
