"""Views of stored plans over the whole store: lineage, notes, differences. For the API and the command line."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from allocator.base.errors import NotFound
from allocator.base.kinds import COMPRESS, PLAN, TRANSFER
from allocator.plan.documents.difference import PlanDiff
from allocator.plan.documents.profile import Facts
from allocator.store.facade import Store
from allocator.store.jobs import Job

MOST_JOBS = 100


def lineage(store: Store, team: str, digest: str) -> dict[str, Any]:
    """The plan's family as the team may see it; the newest `MOST_JOBS` jobs and derived plans.

    Returns:
        ``profile`` {key, model, weights_sha256, calibration_sha256, origin: measured | imported | missing, provenance},
        ``derived_from`` {plan, how} or null, ``derived`` [{plan, how, model}], ``made_by`` and ``applied_by`` (jobs, the latter
        with the checkpoints they wrote and what they measured).

    Raises:
        NotFound: no such plan.
    """
    summary = store.plans.summary(team, digest)
    measured = {row["job_id"]: row for row in store.plans.measurements(team, digest)}
    jobs = store.jobs.find(team, plan_digest=digest, limit=MOST_JOBS).items
    former = None
    if summary["derived_from"]:
        former = {"plan": summary["derived_from"], "how": summary["derivation"]}
    derived = store.plans.find(team, derived_from=digest, limit=MOST_JOBS).items
    return {
        "plan": digest,
        "model": summary["model"],
        "created_by": summary["created_by"],
        "created_at": summary["created_at"],
        "profile": _profile(store, team, summary["profile_key"]),
        "derived_from": former,
        "derived": [
            {"plan": row["digest"], "how": row["derivation"], "model": row["model"]} for row in derived
        ],
        "made_by": [_job(job) for job in jobs if job.kind in (PLAN, TRANSFER)],
        "applied_by": [
            {
                **_job(job),
                "checkpoints": _checkpoints(store, team, job.id),
                "measured": measured[job.id]["measured"] if job.id in measured else None,
            }
            for job in jobs
            if job.kind == COMPRESS
        ],
    }


def notes(
    store: Store, team: str, digest: str, *, limit: int = 50, cursor: str | None = None
) -> dict[str, Any]:
    """{plan, aliases, labels, comments, next_cursor (of the comments)}: what people wrote beside a plan."""
    page = store.notes.comments(team, digest, limit=limit, cursor=cursor)
    return {
        "plan": digest,
        "aliases": [dict(vars(alias)) for alias in store.aliases.find(team, digest=digest, limit=200).items],
        "labels": store.notes.labels(team, digest),
        "comments": page.items,
        "next_cursor": page.next_cursor,
    }


def difference(
    store: Store, team: str, a: str, b: str, *, batch: int | None, context: int | None
) -> PlanDiff:
    """`diff_plans` of two stored plans, with their profile if it is one and stored. Raises NotFound."""
    from allocator.plan.differences import diff_plans

    before, after = (store.plans.get(team, store.plans.resolve(team, name)) for name in (a, b))
    profile = None
    if before.profile_key == after.profile_key:
        with suppress(NotFound):
            profile = store.profiles.get(team, before.profile_key)
    return diff_plans(before, after, profile, batch=batch, context=context)


def _profile(store: Store, team: str, key: str) -> dict[str, Any]:
    try:
        document = store.profiles.document(team, key)
    except NotFound:
        names = ("model", "weights_sha256", "calibration_sha256", "provenance")
        return {"key": key, "origin": "missing", **dict.fromkeys(names)}
    facts, provenance = Facts.stored(document), document.get("provenance")  # nobody reads its curves here
    return {
        "key": key,
        "origin": "measured" if provenance is None else "imported",
        "model": facts.model.reference,
        "weights_sha256": facts.model.weights_sha256,
        "calibration_sha256": facts.calibration.sha256,
        "provenance": provenance,
    }


def _job(job: Job) -> dict[str, Any]:
    names = ("id", "kind", "state", "model", "created_by", "created_at", "finished_at")
    return {name: getattr(job, name) for name in names}


def _checkpoints(store: Store, team: str, job_id: str) -> list[dict[str, Any]]:
    """{name, files [{name, size, sha256, removed_at}]} of each folder that holds a model."""
    files = store.artifacts.list(team, job_id)
    folders: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        folder, slash, _ = file["name"].partition("/")
        if slash:
            row = {key: file[key] for key in ("name", "size", "sha256", "removed_at")}
            folders.setdefault(folder, []).append(row)
    return [{"name": name, "files": folders[name]} for name in sorted(folders)]
