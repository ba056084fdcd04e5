"""Stages: the contract between the job machinery and the work.

A job walks through the stages of its kind in order. On entering a stage the machinery calls ``Stage.items``
(no torch, milliseconds, inside the transaction that enters the stage) and stores one row per item; an empty
list skips the stage. Each item is then run by whichever worker claims it: ``Stage.run`` may take minutes and
import torch. The transaction that finishes a stage's last item enters the next one. An item's ``run`` may
happen more than once (a killed worker), so whatever it writes outside its result must be content-keyed or
replaced atomically.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from allocator.stages.request import Request

if TYPE_CHECKING:
    from allocator.base.settings import Settings
    from allocator.store import Store

CPU_QUEUE, GPU_QUEUE = QUEUES = ("rankalloc", "rankalloc.gpu")
"""The queues that workers listen to."""

_HEAVY = {"calibrate", "surroundings", "profile", "probe", "refine", "apply", "heal", "evaluate"}
"""Stages that run a model."""


def queue_of(stage: str, device: str | None) -> str:
    """The queue of a stage's items: those that run a model wait with the GPU workers, if the job's device is ``cuda``."""
    return GPU_QUEUE if stage in _HEAVY and device == "cuda" else CPU_QUEUE


CLOSED_FORM = "closed-form"
"""The compact checkpoint as solved, where healing will replace ``compact``: what the heal stage starts from, always."""


@dataclass(frozen=True)
class ItemSpec:
    """One piece of work of a stage.

    ``key`` is unique within (job, stage), for instance ``layer-3``; ``payload`` is small JSON.
    """

    key: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobView:
    """The job as a stage may know it: the frozen request and the results of finished stages."""

    id: str
    team: str
    request: Request
    results: dict[str, list[dict[str, Any]]]
    """Stage name -> its items' results, in the order of the items."""
    created_by: str = ""
    """Who submitted it, and so who made what comes out of it."""

    @property
    def kind(self) -> str:
        return self.request.kind

    def result(self, stage: str) -> dict[str, Any]:
        """The result of a stage that has exactly one item."""
        (only,) = self.results[stage]
        return only


class MeasuringContext(Protocol):
    """What reading a job's inputs and measuring take: also of a job that has ended."""

    @property
    def job(self) -> JobView: ...

    @property
    def store(self) -> Store: ...

    @property
    def settings(self) -> Settings: ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress within this item. Cheap (throttled); raises ``Cancelled`` or ``LeaseLost``: let
        them pass.
        """

    def heartbeat(self) -> None:
        """A sign of life without progress to tell; raises as ``progress`` does."""


class StageContext(MeasuringContext, Protocol):
    """The tools of a running item. Given by the machinery, the same for Celery workers and ``compress``."""

    @property
    def item_key(self) -> str: ...

    @property
    def payload(self) -> dict[str, Any]: ...

    @property
    def attempt(self) -> int: ...

    def event(self, type: str, message: str, data: dict[str, Any] | None = None) -> None:
        """Append an event to the job: ``type`` is a dotted slug, ``message`` a sentence for people."""

    def link(self, **columns: str) -> None:
        """Set ``weights_sha256``, ``profile_key`` or ``plan_digest`` on the job row."""

    def artifact_dir(self) -> Path:
        """The job's folder of artifacts; write to ``temporary_dir`` first, then rename into it."""

    def temporary_dir(self) -> Path:
        """A folder of this attempt alone, on the same file system, removed when the item ends."""

    def partial_dir(self) -> Path:
        """A folder of the job that outlives attempts, on the same file system, removed when the job has ended. What an
        attempt finds there it has to check.
        """

    def let_go(self, folder: Path) -> None:
        """Remove a folder of ``partial_dir`` once the item's result is stored: no later stage needs it."""

    def publish_artifact(self, source: Path, name: str) -> None:
        """Rename a finished file or folder into ``artifact_dir()/name`` and record its files, sizes and
        sha256.
        """


class Stage(Protocol):
    """One stage: which items it has, and how to run one."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]: ...

    def run(self, context: StageContext) -> dict[str, Any]: ...
