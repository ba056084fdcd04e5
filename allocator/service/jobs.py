"""Jobs: submitted, found, followed, ended, done again; and their files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from allocator.base.settings import Settings
from allocator.jobs import submit
from allocator.jobs.document import EventDocument, JobDocument, Links, event_document, job_documents
from allocator.service.requests import checked_request
from allocator.service.verbs import Verbs
from allocator.stages.request import Request
from allocator.store import Job, Store
from allocator.store.paging import Page, all_rows


class Jobs(Verbs):
    """``team.jobs``. A job is answered as its document."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        team: str,
        by: str,
        links: Links | None = None,
    ) -> None:
        super().__init__(store, team=team, by=by)
        self._settings, self._links = settings, links

    def submit(self, request: Request, *, idempotency_key: str | None = None) -> JobDocument:
        """A job of this request, for a worker to carry out. Sent again with its key, it is the same job, whatever has become of
        what it names.

        Raises:
            InvalidInput: a field is wrong; or a known key with another request.
            NotFound: no such profile or plan.
            Conflict: the model is known not to fit the plan.
            TooManyRequests: the team has as many open jobs as it may.
        """
        job_id = submit.submitted(
            self._store, team=self._team, request=request, idempotency_key=idempotency_key
        )
        if job_id is None:
            job_id = submit.submit(
                self._store,
                self._settings,
                team=self._team,
                request=checked_request(self._store, self._settings, self._team, request),
                sent=request.document,
                created_by=self._by,
                idempotency_key=idempotency_key,
            )
        return self.get(job_id)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> JobDocument:
        """Do a failed, crashed or cancelled job again, as a new one. Raises NotFound, and Conflict for another."""
        new_id = submit.retry(
            self._store,
            self._settings,
            team=self._team,
            job_id=job_id,
            created_by=self._by,
            idempotency_key=idempotency_key,
        )
        return self.get(new_id)

    def get(self, job_id: str) -> JobDocument:
        """A job as it is now. Raises NotFound."""
        return self._documents([self._store.jobs.get(self._team, job_id)])[0]

    def page(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[JobDocument]:
        """One page of `find`."""
        rows = self._store.jobs.find(self._team, state=state, model=model, limit=limit, cursor=cursor)
        return Page(self._documents(rows.items), rows.next_cursor)

    def find(self, *, state: str | None = None, model: str | None = None) -> Iterator[JobDocument]:
        """All jobs, newest first."""
        return all_rows(lambda cursor: self.page(state=state, model=model, cursor=cursor))

    def cancel(self, job_id: str) -> JobDocument:
        """Ask for a job's end. Repeating it is harmless. Raises Conflict for one that ended otherwise."""
        return self._documents([submit.cancel(self._store, team=self._team, job_id=job_id, by=self._by)])[0]

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[EventDocument]:
        """The events so far, numbered above ``after``. Raises NotFound."""
        self._store.jobs.get(self._team, job_id)
        events = self._store.events.list(self._team, job_id, after=after, limit=limit)
        return [event_document(event) for event in events]

    def download(self, job_id: str, out: str | Path) -> list[Path]:
        """All files of a job, copied into the folder ``out``. Raises NotFound."""
        self._store.jobs.get(self._team, job_id)
        paths = []
        for row in self._store.artifacts.list(self._team, job_id):
            if row["removed_at"] is None:
                target = Path(out) / row["name"]
                target.parent.mkdir(parents=True, exist_ok=True)
                paths.append(Path(shutil.copy2(self._settings.artifacts_dir / job_id / row["name"], target)))
        return paths

    def _documents(self, jobs: Sequence[Job]) -> list[JobDocument]:
        return job_documents(self._store, jobs, self._links)
