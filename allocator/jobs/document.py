"""A job as its users see it, and its events: what REST answers, the client gives, and commands and pages show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

from allocator.base.document import LOOSE, Document, Timestamp
from allocator.stages.kinds import SEQUENCES
from allocator.stages.pipeline import GPU_QUEUE, queue_of
from allocator.store import Event, Job, Progress, Store, states

if TYPE_CHECKING:
    JobState: TypeAlias = str
else:
    JobState = Literal[tuple(map(str, states.STATES))]
_Texts = Annotated[tuple[str, ...], LOOSE]

Links = Callable[[Job], dict[str, str]]
"""A job -> name -> address of what belongs to it."""


class StageProgress(Document):
    """Progress of the present stage."""

    done: int = Field(description="within running parts too")
    total: int = Field(description="of all its parts, as far as it is known")
    unit: str = Field(description="of both", examples=["windows"])


class JobDocument(Document):
    """A job."""

    # A service writes the links of every job.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: str = Field(description="sorts by time of submission")
    kind: str = Field(description=", ".join(f"`{kind}`" for kind in SEQUENCES))
    state: JobState = Field(description=", ".join(f"`{state}`" for state in states.STATES))
    stage: str | None = Field(description="the stage entered last")
    stages: _Texts = Field(description="all stages of this kind of job, in order")
    progress: StageProgress | None = Field(description="`done`, `total`, `unit` of the present stage")
    queue_reason: str | None = Field(description="why nothing is being done at the moment")
    model: str = Field(description="the request's")
    budgets: _Texts = Field(description="the request's")
    request: dict[str, Any] = Field(description="[what was asked for](#fields-of-a-job), without its kind")
    weights_sha256: str | None = Field(description="of the model's weights, once they were read")
    profile_key: str | None = Field(description="of the profile that it made or used")
    plan: str | None = Field(description="the chosen plan's digest")
    error: dict[str, Any] | None = Field(
        description="why it failed: `type`, `title`, `detail`, `errors` and more by type"
    )
    created_by: str = Field(description="who submitted it")
    created_at: Timestamp = Field(description="when it was submitted")
    started_at: Timestamp | None = Field(description="when its first part was begun")
    finished_at: Timestamp | None = Field(description="when it ended")
    retry_of: str | None = Field(description="the job that this one does again")
    links: dict[str, str] = Field(
        default_factory=dict, description="addresses of what belongs to it, in answers of a service only"
    )


class EventDocument(Document):
    """Something that happened to a job."""

    seq: int = Field(description="position in the job's history: 1, 2, 3, ... without gaps")
    type: str = Field(description="such as `stage.started`", examples=["stage.started"])
    message: str = Field(description="for people")
    data: dict[str, Any] = Field(description="by type")
    created_at: Timestamp = Field(description="when it happened")


def job_document(store: Store, job: Job) -> JobDocument:
    """The job's document, without links."""
    (document,) = job_documents(store, [job])
    return document


def job_documents(store: Store, jobs: Sequence[Job], links: Links | None = None) -> list[JobDocument]:
    """The jobs' documents, with one query for all of them.

    Args:
        links: of whoever serves them.
    """
    items = store.items.of_present_stages([job.id for job in jobs if job.stage])
    return [
        _document(job, items.get(job.id, []), {} if links is None else {"links": links(job)}) for job in jobs
    ]


def _document(job: Job, items: Sequence[Progress], served: Mapping[str, Any]) -> JobDocument:
    # Two fields of what is stored: a page has up to 200 jobs, and a request object for each took most of its time.
    return JobDocument(
        id=job.id,
        kind=job.kind,
        state=job.state,
        stage=job.stage,
        stages=SEQUENCES[job.kind],
        progress=progress(items) if job.stage else None,
        queue_reason=_queue_reason(job, items, job.request.get("device")),
        model=job.model,
        budgets=job.request.get("budgets", ()),
        request=job.request,
        weights_sha256=job.weights_sha256,
        profile_key=job.profile_key,
        plan=job.plan_digest,
        error=job.error,
        created_by=job.created_by,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        retry_of=job.retry_of,
        **served,
    )


def event_document(event: Event) -> EventDocument:
    """The event's document."""
    return EventDocument(
        seq=event.seq,
        type=event.type,
        message=event.message,
        data=event.data,
        created_at=event.created_at,
    )


def progress(items: Sequence[Progress]) -> StageProgress:
    """Progress over all items of a stage, that within running items included.

    An item that has not told its size yet counts as large as its stage expected (``expected`` and ``unit`` of its payload),
    else as the average of those that have told. Where nobody knows, items themselves are the unit.
    """
    sized = [item for item in items if _size(item) > 0]
    if not sized:
        done = sum(item.state == states.SUCCEEDED for item in items)
        return StageProgress(done=done, total=len(items), unit="items")
    average = round(sum(map(_size, sized)) / len(sized))
    done = total = 0
    for item in items:
        size = _size(item) or average
        total += size
        done += size if item.state == states.SUCCEEDED else min(item.progress_done, size)
    return StageProgress(done=done, total=total, unit=sized[0].progress_unit or sized[0].payload["unit"])


def _size(item: Progress) -> int:
    return item.progress_total or int(item.payload.get("expected", 0))


def _queue_reason(job: Job, items: Sequence[Progress], device: str | None) -> str | None:
    if job.state not in states.OPEN:
        return None
    if job.queue_reason:
        return job.queue_reason
    # A stage is entered when the one before it has ended: nothing runs outside the present one.
    if job.inline or any(item.state == states.RUNNING for item in items):
        return None
    if job.stage is not None and queue_of(job.stage, device) == GPU_QUEUE:
        return "Waiting for a free GPU worker (RANKALLOC_DEVICE=cuda rankalloc worker)."
    return "Waiting for a free worker."
