"""Jobs: submit, follow, wait, cancel, do again, download."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from allocator.jobs.document import EventDocument, JobDocument
from allocator.jobs.polling import polled_updates
from allocator.store.states import SUCCEEDED, TERMINAL
from api.client.connection import Connection
from api.client.download import download
from api.client.errors import JobFailed, NoAnswer, ServerError, TooManyRequests, WaitedTooLong
from api.client.retrying import pause
from api.schemas.answers import ArtifactList, ArtifactOut, JobPage

_STREAM_FAILURES = 3
"""After so many in a row, each without an event, a stream is given up for polling."""
_STREAM = httpx.Timeout(30.0, read=60.0)
"""The server says something every quarter of a minute, if only that it is there."""


class Jobs:
    """``client.jobs``."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def submit(
        self,
        kind: str,
        model: str,
        budgets: Sequence[str] = (),
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JobDocument:
        """Submit a job.

        Args:
            kind: ``profile``, ``plan``, ``compress`` or ``transfer``.
            model: ``local:<name>`` or ``hf:<owner>/<name>@<40-hex>``.
            budgets: as in ``block_params=0.8``; left out where ``plan`` is applied.
            idempotency_key: name this submission, so that sending it again, even from another process, is the same job;
                default: a fresh one, which makes it safe to try again while this call lasts.
            fields: any other of ``POST /v1/jobs``: ``plan``, ``calibration``, ``evaluation``, ``solver``, ``constraints``,
                ``samples``, ``sequence_length``, ``evaluation_length``, ...
        """
        body = {"kind": kind, "model": model, "budgets": list(budgets), **fields}
        return self._accepted("/v1/jobs", idempotency_key, json=body)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> JobDocument:
        """Do a failed, crashed or cancelled job again, as a new one. Raises Conflict for another."""
        return self._accepted(f"{_path(job_id)}/retry", idempotency_key)

    def transfer(
        self, plan: str, model: str, *, calibration: str | None = None, idempotency_key: str | None = None
    ) -> JobDocument:
        """Ask whether a plan holds for a fine-tune; if so, the job's ``plan`` is one for it. Raises Conflict for another
        geometry.
        """
        body = {"model": model} if calibration is None else {"model": model, "calibration": calibration}
        return self._accepted(f"/v1/plans/{quote(plan, safe='')}/transfer", idempotency_key, json=body)

    def _accepted(self, path: str, key: str | None, **options: Any) -> JobDocument:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return JobDocument.stored(
            self._client.json("POST", path, headers=headers, repeatable=True, **options)
        )

    def get(self, job_id: str) -> JobDocument:
        """A job as it is now."""
        return JobDocument.stored(self._client.json("GET", _path(job_id)))

    def find(self, *, state: str | None = None, model: str | None = None) -> Iterator[JobDocument]:
        """All jobs, newest first, page after page as they are asked for."""
        return self._client.pages("/v1/jobs", JobPage, state=state, model=model)

    def cancel(self, job_id: str) -> JobDocument:
        """Ask for a job's end. Repeating it is harmless. Raises Conflict for one that ended otherwise."""
        return JobDocument.stored(self._client.json("POST", f"{_path(job_id)}/cancel", repeatable=True))

    def events(self, job_id: str, *, after: int = 0) -> list[EventDocument]:
        """The events so far, numbered above ``after``; at most 1000."""
        answer = self._client.json("GET", f"{_path(job_id)}/events", params={"after": after})
        return [EventDocument.stored(event) for event in answer["items"]]

    def stream(self, job_id: str, *, after: int = 0, poll_s: float = 1.0) -> Iterator[EventDocument]:
        """Events as they happen until the job is over, each once: by server-sent events, taken up again where a connection
        breaks, and by asking every ``poll_s`` where streams do not get through.
        """
        for event in self._follow(job_id, after, poll_s):
            if event is not None:
                yield event

    def _follow(self, job_id: str, after: int, poll_s: float = 1.0) -> Iterator[EventDocument | None]:
        """Events as of `stream`, and None now and then while nothing happens."""
        last, failures = after, 0
        while failures < _STREAM_FAILURES:
            try:
                for event in self._server_sent(job_id, last):
                    if event is not None:
                        last, failures = event.seq, 0
                    yield event
            except (NoAnswer, ServerError, TooManyRequests) as error:
                failures += 1
                pause(failures, error)
                continue
            if self.get(job_id).state in TERMINAL:
                break
            failures += 1  # a stream that ends before its job: the server is being stopped
            pause(failures)
        for _, events in polled_updates(
            lambda: self.get(job_id),
            lambda above: self.events(job_id, after=above),
            after=last,
            poll_s=poll_s,
        ):
            yield from events
            yield None

    def _server_sent(self, job_id: str, last: int) -> Iterator[EventDocument | None]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
        path = f"{_path(job_id)}/events/stream"
        with self._client.stream(path, headers=headers, timeout=_STREAM) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise NoAnswer("the answer is no stream of events")
            data: list[str] = []
            for line in response.iter_lines():
                if line.startswith("data:"):
                    data.append(line.removeprefix("data:").removeprefix(" "))
                elif line.startswith(":"):
                    yield None
                elif not line and data:
                    event = EventDocument.stored(json.loads("\n".join(data)))
                    data = []
                    if event.seq > last:
                        yield event

    def wait(
        self,
        job_id: str,
        *,
        on_event: Callable[[EventDocument], None] | None = None,
        timeout_s: float | None = None,
        after: int = 0,
    ) -> JobDocument:
        """The job after it has succeeded; ``on_event`` is told what happens meanwhile.

        Raises:
            JobFailed: it ended otherwise.
            WaitedTooLong: it was not over after ``timeout_s``, give or take the quarter of a minute in which a server that has
                nothing to tell gives a sign of life.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for event in self._follow(job_id, after):
            if on_event is not None and event is not None:
                on_event(event)
            if deadline is not None and time.monotonic() > deadline:
                break
        return self._succeeded(job_id)

    def _succeeded(self, job_id: str) -> JobDocument:
        job = self.get(job_id)
        if job.state not in TERMINAL:
            raise WaitedTooLong(job)
        if job.state != SUCCEEDED:
            raise JobFailed(job)
        return job

    def artifacts(self, job_id: str) -> list[ArtifactOut]:
        """The files that the job wrote; ``removed_at`` is set of those that are no more."""
        return ArtifactList.model_validate(self._client.json("GET", f"{_path(job_id)}/artifacts")).items

    def remove_artifacts(self, job_id: str) -> list[ArtifactOut]:
        """Remove a finished job's files. Repeating it is harmless. Raises Conflict for a job that runs."""
        answer = self._client.json("DELETE", f"{_path(job_id)}/artifacts", repeatable=True)
        return ArtifactList.model_validate(answer).items

    def download(self, job_id: str, out: str | Path) -> list[Path]:
        """All files of a job into the folder ``out``, each whole and checked by its sha256 or not there at all; what is there
        already is kept, and what was interrupted goes on.

        Raises:
            DownloadCorrupt: a file is not what its sha256 says, or its name leads out of ``out``.
        """
        files = [file for file in self.artifacts(job_id) if file.removed_at is None]
        return download(self._client, f"{_path(job_id)}/artifacts", files, Path(out))


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
