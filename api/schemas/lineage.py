"""Answers of the API about a plan's family: its profile, plans before and after it, jobs and their checkpoints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from allocator.base.document import Timestamp
from allocator.jobs.document import JobState


class LineageProfile(BaseModel):
    """The profile that a plan was made from."""

    key: str
    origin: Literal["measured", "imported", "missing"]
    model: str | None
    weights_sha256: str | None
    calibration_sha256: str | None
    provenance: dict[str, Any] | None = Field(description="Of an imported one: who, when, its original key.")


class FormerPlan(BaseModel):
    """The plan from which one came."""

    plan: str
    how: Literal["refined", "transferred"]


class DerivedPlan(FormerPlan):
    """A plan that came from one."""

    model: str


class LineageJob(BaseModel):
    """A job that made or applied a plan."""

    id: str
    kind: str
    state: JobState
    model: str
    created_by: str
    created_at: Timestamp
    finished_at: Timestamp | None


class CheckpointFile(BaseModel):
    """One file of a checkpoint."""

    name: str
    size: int = Field(description="Bytes.")
    sha256: str
    removed_at: Timestamp | None


class Checkpoint(BaseModel):
    """A model that a job wrote."""

    name: str = Field(examples=["compact"])
    files: list[CheckpointFile]


class ApplyingJob(LineageJob):
    """A job that applied a plan, what it wrote and what it measured."""

    checkpoints: list[Checkpoint]
    measured: dict[str, Any] | None


class Lineage(BaseModel):
    """Profile, plan and checkpoints; the newest 100 jobs and derived plans."""

    plan: str
    model: str
    created_by: str
    created_at: Timestamp
    profile: LineageProfile
    derived_from: FormerPlan | None
    derived: list[DerivedPlan]
    made_by: list[LineageJob]
    applied_by: list[ApplyingJob]
