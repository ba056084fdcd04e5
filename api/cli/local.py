"""The store of RANKALLOC_HOME as the source of a command."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.access import ShareKind
from allocator.base.errors import InvalidInput
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable
from allocator.store.paging import all_of
from api.cli.console import settings
from api.cli.sources import not_shared

if TYPE_CHECKING:
    from allocator.base.settings import Settings
    from allocator.store import Store

TEAM = "default"
Document = dict[str, Any]
_NEEDS_A_SERVICE = (
    "jobs are carried out by a service: name one with --server or RANKALLOC_SERVER;"
    " on this machine alone use rankalloc compress, profile or apply"
)


@contextmanager
def local_store() -> Iterator[Store]:
    from allocator.store import Store

    store = Store.open(settings(), create=True)
    try:
        yield store
    finally:
        store.close()


def _json(value: Any) -> Any:
    """A store's rows as JSON: times as text."""
    from allocator.jobs.document import timestamp

    if isinstance(value, dict):
        return {name: _json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    return timestamp(value) if isinstance(value, datetime) else value


class LocalSource:
    """`api.cli.sources.Source` over the store of this machine, as team ``default``."""

    def __init__(self, store: Store, configured: Settings) -> None:
        self._store, self._settings = store, configured

    def profiles(self, model: str | None) -> list[Document]:
        find = self._store.profiles.find
        return list(_json(all_of(lambda cursor: find(TEAM, model=model, limit=200, cursor=cursor))))

    def profile(self, key: str) -> Profile:
        return self._store.profiles.get(TEAM, self._store.profiles.resolve(TEAM, key))

    def import_profile(self, data: bytes, *, trust: bool) -> Document:
        from allocator.jobs.document import timestamp
        from allocator.plan.files.portable import import_profile

        found = import_profile(data)
        profile = found.taken(trust=trust, by=TEAM, at=timestamp(datetime.now(UTC)))
        stored = self._store.profiles.take_in(TEAM, profile, by=TEAM)
        original = found.profile.key
        return {"key": profile.key, "original_key": original, "sha256": found.sha256, "stored": stored}

    def create_plan(
        self,
        profile: Profile,
        budgets: Sequence[str],
        constraints: Mapping[str, Sequence[str]] | None,
        *,
        latency: LatencyTable | None = None,
        bits: Sequence[int] | None = None,
        least: str | None = None,
        max_loss_nats: float | None = None,
    ) -> Plan:
        from allocator.plan.inverse import plan_or_least

        found = plan_or_least(
            profile,
            budgets,
            least=least,
            max_loss_nats=max_loss_nats,
            constraints=constraints,
            latency=latency,
            bits=bits,
            created_by=TEAM,
        )
        self._store.plans.put(TEAM, found, created_by=TEAM)
        return found

    def plans(self, query: Mapping[str, Any], limit: int) -> list[Document]:
        from allocator.plan.ask.budgets import parse_metric

        asked = dict(query)
        limits = (asked.pop("min_limit", None), asked.pop("max_limit", None))
        losses = (asked.pop("min_loss_nats", None), asked.pop("max_loss_nats", None))
        if asked.get("metric") is not None:
            asked["metric"] = parse_metric(asked["metric"]).label
        elif limits != (None, None):
            raise InvalidInput("--metric: give the metric whose limit is meant")
        find = self._store.plans.find
        rows = all_of(
            lambda cursor: find(TEAM, limits=limits, losses_nats=losses, cursor=cursor, **asked), limit
        )
        return list(_json(rows))

    def _digest(self, plan: str) -> str:
        return self._store.plans.resolve(TEAM, plan)

    def plan(self, plan: str) -> Document:
        return self._store.plans.document(TEAM, self._digest(plan))

    def diff(self, a: str, b: str, *, batch: int | None, context: int | None) -> Document:
        from allocator.store.plan_views import difference

        return difference(self._store, TEAM, a, b, batch=batch, context=context)

    def lineage(self, plan: str) -> Document:
        from allocator.store.plan_views import lineage

        return dict(_json(lineage(self._store, TEAM, self._digest(plan))))

    def notes(self, plan: str) -> Document:
        from allocator.store.plan_views import notes

        return dict(_json(notes(self._store, TEAM, self._digest(plan))))

    def comment(self, plan: str, text: str) -> Document:
        return dict(_json(self._store.notes.add_comment(TEAM, self._digest(plan), text, by=TEAM)))

    def label(self, plan: str, label: str, *, remove: bool) -> None:
        if remove:
            self._store.notes.remove_label(TEAM, self._digest(plan), label, by=TEAM)
        else:
            self._store.notes.add_label(TEAM, self._digest(plan), label, by=TEAM)

    def aliases(self) -> list[Document]:
        found = all_of(lambda cursor: self._store.aliases.find(TEAM, cursor=cursor))
        return [_json(vars(alias)) for alias in found]

    def alias(self, name: str) -> Document:
        return dict(_json(vars(self._store.aliases.get(TEAM, name))))

    def alias_history(self, name: str) -> list[Document]:
        return list(_json(all_of(lambda cursor: self._store.aliases.history(TEAM, name, cursor=cursor))))

    def set_alias(self, name: str, plan: str, version: int | None) -> Document:
        expected = None if version is None else frozenset({version})
        alias, _ = self._store.aliases.set(TEAM, name, self._digest(plan), by=TEAM, expected=expected)
        return dict(_json(vars(alias)))

    def roll_back(self, name: str, version: int, to: int | None) -> Document:
        aliases, expected = self._store.aliases, frozenset({version})
        return dict(_json(vars(aliases.roll_back(TEAM, name, by=TEAM, expected=expected, version=to))))

    def delete_alias(self, name: str, version: int) -> None:
        self._store.aliases.delete(TEAM, name, by=TEAM, expected=frozenset({version}))

    def _named(self, kind: ShareKind, name: str) -> str:
        return self._digest(name) if kind == "plan" else self._store.profiles.resolve(TEAM, name)

    def share(self, kind: ShareKind, name: str, team: str) -> Document:
        share, _ = self._store.shares.add(TEAM, kind, self._named(kind, name), with_team=team, by=TEAM)
        return dict(_json(share._asdict()))

    def unshare(self, kind: ShareKind, name: str, team: str) -> Document:
        key = self._named(kind, name)
        find = partial(self._store.shares.find, TEAM, directions=("given",), kind=kind, key=key)
        for share in all_of(lambda cursor: find(cursor=cursor)):
            if share.with_team == team:
                self._store.shares.undo(TEAM, share.id, by=TEAM)
                return dict(_json(share._asdict()))
        raise not_shared(kind, key, team)

    def shares(self, kind: ShareKind, *, undone: bool) -> list[Document]:
        find = partial(self._store.shares.find, TEAM, kind=kind, undone=undone)
        return [_json(share._asdict()) for share in all_of(lambda cursor: find(cursor=cursor))]

    def submit(self, request: Document, idempotency_key: str | None) -> Document:
        raise InvalidInput(_NEEDS_A_SERVICE)

    def retry(self, job_id: str) -> Document:
        raise InvalidInput(_NEEDS_A_SERVICE)

    def jobs(self, *, state: str | None, model: str | None, limit: int) -> list[Document]:
        from allocator.jobs.document import job_documents

        find = self._store.jobs.find
        rows = all_of(lambda cursor: find(TEAM, state=state, model=model, cursor=cursor), limit)
        return job_documents(self._store, rows)

    def job(self, job_id: str) -> Document:
        from allocator.jobs.document import job_document

        return job_document(self._store, self._store.jobs.get(TEAM, job_id))

    def events(self, job_id: str, after: int) -> list[Document]:
        from allocator.jobs.document import event_document

        self._store.jobs.get(TEAM, job_id)
        return [event_document(event) for event in self._store.events.list(TEAM, job_id, after=after)]

    def cancel(self, job_id: str) -> Document:
        from allocator.jobs.submit import cancel

        cancel(self._store, team=TEAM, job_id=job_id, by=TEAM)
        return self.job(job_id)

    def download(self, job_id: str, out: Path) -> list[Path]:
        self._store.jobs.get(TEAM, job_id)
        written = []
        for row in self._store.artifacts.list(TEAM, job_id):
            if row["removed_at"] is None:
                source = self._settings.artifacts_dir / job_id / row["name"]
                (out / row["name"]).parent.mkdir(parents=True, exist_ok=True)
                written.append(Path(shutil.copy2(source, out / row["name"])))
        return written
