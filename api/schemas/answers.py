"""Answers of the API about jobs, their files and profiles, and about errors."""

from __future__ import annotations

from pydantic import BaseModel, Field

from allocator.base.document import Timestamp
from allocator.jobs.document import EventDocument, JobDocument


class EventList(BaseModel):
    """A stretch of a job's history."""

    items: list[EventDocument]


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

    items: list[JobDocument]
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
