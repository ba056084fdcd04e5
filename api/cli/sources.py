"""Where commands get profiles, plans and jobs from: the store of RANKALLOC_HOME, or a service; both in the JSON of REST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from allocator.base.access import ShareKind
from allocator.base.errors import JobFailed, NotFound, RankallocError
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable

Document = dict[str, Any]


class Source(Protocol):
    """What a command may ask. ``plan`` is a digest, its first characters or ``alias:<name>``.

    Every method raises `RankallocError` with the exit status of what went wrong.
    """

    def profiles(self, model: str | None) -> list[Document]:
        """Summaries, newest first."""

    def profile(self, key: str) -> Profile:
        """A profile, by its key or the key's first characters."""

    def import_profile(self, data: bytes, *, trust: bool) -> Document:
        """{key, original_key, sha256, stored}"""

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
        """The plan of a profile, stored; ``latency``: for budgets on time, stored too."""

    def plans(self, query: Mapping[str, Any], limit: int) -> list[Document]:
        """Summaries, newest first; ``query`` as that of ``GET /v1/plans``."""

    def plan(self, plan: str) -> Document:
        """As it is stored."""

    def diff(self, a: str, b: str, *, batch: int | None, context: int | None) -> Document: ...

    def lineage(self, plan: str) -> Document: ...

    def notes(self, plan: str) -> Document: ...

    def comment(self, plan: str, text: str) -> Document: ...

    def label(self, plan: str, label: str, *, remove: bool) -> None: ...

    def aliases(self) -> list[Document]: ...

    def alias(self, name: str) -> Document: ...

    def alias_history(self, name: str) -> list[Document]: ...

    def set_alias(self, name: str, plan: str, version: int | None) -> Document:
        """Make it, or move the version that is known."""

    def roll_back(self, name: str, version: int, to: int | None) -> Document: ...

    def delete_alias(self, name: str, version: int) -> None: ...

    def share(self, kind: ShareKind, name: str, team: str) -> Document:
        """The share, new or there before; ``name`` as `profile` and `plan` take it."""

    def unshare(self, kind: ShareKind, name: str, team: str) -> Document:
        """The share that was undone. Raises where there is none."""

    def shares(self, kind: ShareKind, *, undone: bool) -> list[Document]:
        """Given and received, newest first."""

    def submit(self, request: Document, idempotency_key: str | None) -> Document: ...

    def retry(self, job_id: str) -> Document: ...

    def jobs(self, *, state: str | None, model: str | None, limit: int) -> list[Document]: ...

    def job(self, job_id: str) -> Document: ...

    def events(self, job_id: str, after: int) -> list[Document]: ...

    def cancel(self, job_id: str) -> Document: ...

    def download(self, job_id: str, out: Path) -> list[Path]:
        """All files of a job, into a folder."""


def not_shared(kind: str, key: str, team: str) -> NotFound:
    """The error of an end of what has not begun."""
    return NotFound(
        f"{kind} {key[:12]} is not shared with team {team!r}; `rankalloc {kind}s shares` lists what is."
    )


def failure(job: Document) -> RankallocError:
    """The stored error of a job as an exception with the exit status of its type."""
    error = job["error"] or {}
    found = JobFailed(error.get("detail") or f"job {job['id']} ended as {job['state']}")
    found.exit_code = error.get("exit_code", JobFailed.exit_code)  # type: ignore[misc]
    return found
