"""Sources of profiles, plans and jobs for commands: the store of RANKALLOC_HOME, or a service. Both have the same verbs, so a
command is written once; only their answers become JSON in different ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from allocator.base.access import ShareKind
from allocator.base.document import Document, timestamp
from allocator.base.errors import JobFailed, RankallocError
from allocator.plan.documents.profile import Profile

if TYPE_CHECKING:
    from allocator.jobs.document import JobDocument
    from allocator.service import TeamStore
    from allocator.store import Job
    from api.client import Client

    Source: TypeAlias = Client | TeamStore

JsonObject = dict[str, Any]


def as_json(answer: Any) -> Any:
    """The answer of a verb as the JSON of REST: documents, a service's models, a store's rows (times as text)."""
    if isinstance(answer, Document):
        return answer.document
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json", by_alias=True)
    if isinstance(answer, datetime):
        return timestamp(answer)
    if isinstance(answer, dict):
        return {name: as_json(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [as_json(value) for value in answer]
    if hasattr(answer, "_asdict"):
        return as_json(answer._asdict())
    return as_json(vars(answer)) if hasattr(answer, "__dataclass_fields__") else answer


def rows(answers: Iterable[Any], limit: int | None = None) -> list[JsonObject]:
    """The first so many rows of a list, as JSON; default: all."""
    return [as_json(answer) for answer in islice(answers, limit)]


def profile_of(source: Source, key: str) -> Profile:
    """A profile, by its key or the key's first characters. Raises NotFound and InvalidInput."""
    return Profile.stored(source.profiles.get(key))


def whole_name(source: Source, kind: ShareKind, name: str) -> str:
    """The digest of a plan, or the key of a profile, by any name that it has; a service gives it with the whole document."""
    from allocator.service import TeamStore

    if isinstance(source, TeamStore):
        return source.plans.resolve(name) if kind == "plan" else source.profiles.resolve(name)
    return str(source.plans.get(name)["digest"] if kind == "plan" else source.profiles.get(name)["key"])


def failure(job: Job | JobDocument) -> RankallocError:
    """The stored error of a job as an exception with the exit status of its type."""
    error = job.error or {}
    failed = JobFailed(error.get("detail") or f"job {job.id} ended as {job.state}")
    failed.exit_code = error.get("exit_code", JobFailed.exit_code)  # type: ignore[misc]
    return failed
