"""Answers of the API about jobs, their files and profiles, and about errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from api.schemas.requests import JobState, Timestamp


class Progress(BaseModel):
    """Progress of the present stage."""

    done: int
    total: int
    unit: str = Field(examples=["windows"])


class JobOut(BaseModel):
    """A job."""

    id: str
    kind: str
    state: JobState
    stage: str | None = Field(description="The stage entered last.")
    stages: list[str] = Field(description="All stages of this kind of job, in order.")
    progress: Progress | None
    queue_reason: str | None = Field(description="Why nothing is being done at the moment.")
    model: str
    budgets: list[str]
    request: dict[str, Any]
    weights_sha256: str | None
    profile_key: str | None
    plan: str | None = Field(description="The chosen plan's digest.")
    error: dict[str, Any] | None = Field(description="Why it failed: type, title, detail, errors[].")
    created_by: str
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    retry_of: str | None = Field(description="The job that this one does again.")
    links: dict[str, str]


class EventOut(BaseModel):
    """Something that happened to a job."""

    seq: int = Field(description="Position in the job's history: 1, 2, 3, ... without gaps.")
    type: str = Field(examples=["stage.started"])
    message: str
    data: dict[str, Any]
    created_at: Timestamp


class EventList(BaseModel):
    """A stretch of a job's history."""

    items: list[EventOut]


class ArtifactOut(BaseModel):
    """A file a job wrote."""

    name: str
    size: int = Field(description="Bytes.")
    sha256: str
    created_at: Timestamp
    removed_at: Timestamp | None = Field(description="null: it is still there.")
    href: str


class ArtifactList(BaseModel):
    """All files a job wrote, by name."""

    items: list[ArtifactOut]


class JobPage(BaseModel):
    """Jobs, newest first."""

    items: list[JobOut]
    next_cursor: str | None = Field(description="Hand it back as `cursor`; null on the last page.")


class ProfileSummary(BaseModel):
    """A stored profile."""

    key: str
    model: str
    weights_sha256: str
    calibration_sha256: str
    created_at: Timestamp
    shared_by: str | None = Field(description="The team that shares it with yours; null: your own.")


class ProfilePage(BaseModel):
    """Profiles, newest first."""

    items: list[ProfileSummary]
    next_cursor: str | None


class ImportedProfile(BaseModel):
    """The key of an imported profile."""

    key: str = Field(description="Of its own: a job never takes it for one that was measured here.")
    original_key: str
    sha256: str = Field(description="Of the file's content.")
    stored: bool = Field(description="false: it was there already.")


class Problem(BaseModel):
    """RFC 9457. More members by type, such as `achievable` of an infeasible budget."""

    type: str = Field(examples=["urn:rankalloc:problem:budget_infeasible"])
    code: str = Field(description="The last part of `type`.", examples=["budget_infeasible"])
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] = Field(description="{field, found, allowed} of every wrong field.")
    request_id: str
