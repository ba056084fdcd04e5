"""A database as a busy team leaves it behind: what limits and query plans are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from allocator.store import Store
from allocator.store.clock import EPOCH
from allocator.store.job_tables import artifacts, events, items, jobs
from allocator.store.plan_tables import plan_budgets, plan_labels, plan_measurements, plans, profiles
from allocator.store.tables import models, units

_AT_ONCE = 2000
_TEAMS = ("default", "red", "green", "blue")
METRIC, LIMIT = "kv_bytes_per_token", 10**6
"""Every plan has a limit of its own on it, counted up from there."""
LABEL = "good"
"""Of every twentieth plan."""


@dataclass(frozen=True)
class Size:
    """How many rows. ``queued_jobs`` are of team ``default``; everything else is spread over four teams."""

    queued_jobs: int = 200
    ended_jobs: int = 4000
    items_per_job: int = 5
    models: int = 1000
    profiles_of_one_model: int = 10_000
    other_profiles: int = 1000
    units: int = 10_000
    plans: int = 4000


def hexadecimal(number: int) -> str:
    return f"{number:064x}"


def job_id(number: int) -> str:
    """Like a ULID: 26 characters that sort by age."""
    return f"01{number:024d}"


def item_id(job: int, position: int) -> str:
    return f"02{job * 1000 + position:024d}"


def populate(store: Store, size: Size) -> None:
    """Fill the tables, and on PostgreSQL gather the statistics that autovacuum would; nobody gathers any on SQLite."""
    with store.database.write() as connection:
        for table, rows in _tables(size):
            for start in range(0, len(rows), _AT_ONCE):
                connection.execute(table.insert(), rows[start : start + _AT_ONCE])
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))


def _tables(size: Size) -> list[tuple[Any, list[dict[str, Any]]]]:
    jobs_, items_, events_, artifacts_ = _jobs(size)
    return [
        (models, [_model(n) for n in range(size.models)]),
        (
            units,
            [{"team": _team(n), "key": hexadecimal(n), "payload": {"l": 0.1}} for n in range(size.units)],
        ),
        (profiles, _profiles(size)),
        (plans, [_plan(n, size) for n in range(size.plans)]),
        (plan_budgets, [_budget(n) for n in range(size.plans)]),
        (plan_labels, [_label(n) for n in range(0, size.plans, 20)]),
        (plan_measurements, [_measurement(n) for n in range(size.plans)]),
        (jobs, jobs_),
        (items, items_),
        (events, events_),
        (artifacts, artifacts_),
    ]


def _team(number: int) -> str:
    return _TEAMS[number % len(_TEAMS)]


def _model(number: int) -> dict[str, Any]:
    weights = hexadecimal(number)
    return {"team": _team(number), "reference": f"local:m{number}", "weights_sha256": weights, "document": {}}


def _profiles(size: Size) -> list[dict[str, Any]]:
    busy, total = size.profiles_of_one_model, size.profiles_of_one_model + size.other_profiles
    return [
        {
            "team": "default" if n < busy else _team(n),
            "key": hexadecimal(n),
            "model": "local:m0" if n < busy else f"local:m{n % size.models}",
            "weights_sha256": hexadecimal(0 if n < busy else n % size.models),
            "calibration_sha256": hexadecimal(n % 50),
            "document": {"key": hexadecimal(n)},
        }
        for n in range(total)
    ]


def _plan(number: int, size: Size) -> dict[str, Any]:
    return {
        "team": _team(number),
        "digest": hexadecimal(number),
        "profile_key": hexadecimal(number % size.profiles_of_one_model),
        "model": f"local:m{number % size.models}",
        "weights_sha256": hexadecimal(number % size.models),
        "document": {"digest": hexadecimal(number)},
        "created_by": "population",
        "predicted_loss_nats": number / 1000,
    }


def _budget(number: int) -> dict[str, Any]:
    return {
        "team": _team(number),
        "digest": hexadecimal(number),
        "metric": METRIC,
        "limit_value": LIMIT + number,
    }


def _label(number: int) -> dict[str, Any]:
    return {
        "team": _team(number),
        "digest": hexadecimal(number),
        "label": LABEL,
        "created_by": "population",
    }


def _measurement(number: int) -> dict[str, Any]:
    digest = hexadecimal(number)
    return {"team": _team(number), "digest": digest, "job_id": job_id(number), "measured": {}}


def _jobs(size: Size) -> tuple[list[dict[str, Any]], ...]:
    """Ended jobs first, as they are older; every queued one waits for its only item to be announced."""
    jobs_, items_, events_, artifacts_ = [], [], [], []
    for n in range(size.ended_jobs + size.queued_jobs):
        queued = n >= size.ended_jobs
        team = "default" if queued else _team(n)
        jobs_.append(
            {
                "id": job_id(n),
                "team": team,
                "kind": "profile",
                "state": "queued" if queued else "succeeded",
                "stage": "prepare" if queued else "profile",
                "model": f"local:m{n % size.models}",
                "request": {"model": f"local:m{n % size.models}"},
                "request_sha256": hexadecimal(n),
                "created_by": "population",
                "inline": False,
                "last_seq": 3,
            }
        )
        for position in range(1 if queued else size.items_per_job):
            items_.append(
                {
                    "id": item_id(n, position),
                    "job_id": job_id(n),
                    "stage": "prepare" if queued else "profile",
                    "position": position,
                    "key": f"part-{position}",
                    "payload": {"expected": 8, "unit": "windows"},
                    "state": "queued" if queued else "succeeded",
                    "result": None if queued else {"n": position},
                    "publish_after": EPOCH,
                }
            )
        for seq in range(1, 4):
            events_.append({"job_id": job_id(n), "seq": seq, "type": "t", "message": "m", "data": {}})
        if not queued:
            name = "report.json"
            row = {"name": name, "size": 9, "sha256": hexadecimal(n), "relative_path": f"{job_id(n)}/{name}"}
            artifacts_.append({"team": team, "job_id": job_id(n), **row})
    return jobs_, items_, events_, artifacts_
