"""Does the memory of the API and the dispatcher grow? One process with both under steady load for some minutes.

``python -m benchmarks.soak --minutes 3`` prints slopes of resident memory and of what Python has allocated (tracemalloc),
fitted over the second half: the first warms caches and pools.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
BODY = {"kind": "plan", "model": "local:m", "budgets": ["params=0.8"]}


def serve(home: Path) -> None:
    """The service without a worker, so that jobs queue up and are cancelled; a sample of its memory every second."""
    from allocator.jobs.dispatcher import Dispatcher
    from allocator.settings import Settings
    from allocator.store import Store
    from api.app import create_app

    settings = Settings(home=home, model_roots=[home / "models"])
    settings.prepare_home()
    store = Store.open(settings, create=True)
    dispatcher = Dispatcher(store, settings)
    app = create_app(settings, store=store, wake=dispatcher.wake)
    import uvicorn

    tracemalloc.start()
    dispatcher.start()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    started = time.monotonic()

    def sample() -> None:
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"port": port}), flush=True)
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


def load(client: httpx.Client, profile: bytes, until: float) -> dict[str, int]:
    """What a team does, over and over; the answers by status."""
    seen: dict[str, int] = {}
    key = client.post("/v1/profiles", content=profile).json()["key"]
    budget = 0
    while time.monotonic() < until:
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
            seen[str(answer.status_code)] = seen.get(str(answer.status_code), 0) + 1
    return seen


def slope_kib_per_minute(rows: list[dict[str, float]], key: str) -> float:
    """By least squares over the second half."""
    half = [row for row in rows if row["s"] > rows[-1]["s"] / 2]
    times, values = np.array([row["s"] for row in half]) / 60, np.array([row[key] for row in half]) / 1024
    return float(np.polyfit(times, values, 1)[0])


def soak(minutes: float) -> dict[str, Any]:
    from allocator.profiling.portable import export_profile
    from tests.support.profiles import measured_profile

    with tempfile.TemporaryDirectory(prefix="ra-soak-") as folder:
        home = Path(folder) / "home"
        model = home / "models" / "m"
        model.mkdir(parents=True)
        for name in ("config.json", "calibration.txt"):
            (model / name).write_text("{}")
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--serve", str(home)], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        try:
            port = json.loads(server.stdout.readline())["port"]
            rows: list[dict[str, float]] = []
            reader = threading.Thread(target=lambda: rows.extend(map(json.loads, server.stdout or [])))
            reader.start()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                seen = load(client, export_profile(measured_profile()), time.monotonic() + 60 * minutes)
        finally:
            server.terminate()
            server.wait()
        reader.join()
    return {
        "minutes": minutes,
        "requests": sum(seen.values()),
        "statuses": seen,
        "rss_mib": [round(rows[0]["rss"] / 2**20, 1), round(rows[-1]["rss"] / 2**20, 1)],
        "rss_kib_per_minute": round(slope_kib_per_minute(rows, "rss"), 1),
        "traced_mib": [round(rows[0]["traced"] / 2**20, 2), round(rows[-1]["traced"] / 2**20, 2)],
        "traced_kib_per_minute": round(slope_kib_per_minute(rows, "traced"), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        print(json.dumps(soak(arguments.minutes), indent=2))


if __name__ == "__main__":
    main()
