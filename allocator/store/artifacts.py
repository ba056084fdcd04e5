"""Artifacts: names, sizes and hashes of files a job wrote, which live under ``Settings.artifacts_dir``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, or_, select, update

from allocator.base.errors import NotFound
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.job_tables import artifacts
from allocator.store.upserts import insert

_PUBLIC = (
    artifacts.c.name,
    artifacts.c.size,
    artifacts.c.sha256,
    artifacts.c.created_at,
    artifacts.c.removed_at,
)


class Artifacts:
    """One row per (job, name); names may contain ``/``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, team: str, job_id: str, name: str, size: int, sha256: str, relative_path: str) -> None:
        """Record a file of ``size`` bytes; a repeated item replaces the row of the same name."""
        with self._database.write() as connection:
            statement = insert(connection, artifacts).values(
                team=team, job_id=job_id, name=name, size=size, sha256=sha256, relative_path=relative_path
            )
            replaced = {key: statement.excluded[key] for key in ("size", "sha256", "relative_path")}
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["job_id", "name"],
                    set_={**replaced, "created_at": utcnow(), "removed_at": None},
                )
            )

    def forget(self, job_id: str, name: str) -> None:
        """Remove the rows of a file, or of all files in a folder, of this name."""
        inside = artifacts.c.name.startswith(f"{name}/", autoescape=True)
        with self._database.write() as connection:
            connection.execute(
                delete(artifacts).where(artifacts.c.job_id == job_id, or_(artifacts.c.name == name, inside))
            )

    def paths(self, job_id: str) -> set[str]:
        """``relative_path`` of every file of a job of any team: for the machinery, never for a request."""
        statement = select(artifacts.c.relative_path).where(artifacts.c.job_id == job_id)
        with self._database.read() as connection:
            return set(connection.execute(statement).scalars())

    def list(self, team: str, job_id: str) -> list[dict[str, Any]]:
        """``{name, size, sha256, created_at, removed_at}`` of every file, by name."""
        own = (artifacts.c.team == team) & (artifacts.c.job_id == job_id)
        with self._database.read() as connection:
            rows = connection.execute(select(*_PUBLIC).where(own).order_by(artifacts.c.name))
            return [dict(row._mapping) for row in rows]

    def mark_removed(self, team: str, job_id: str) -> int:
        """Say that a job's files are no more; how many were until now. Before they are removed, so that none is promised
        that is gone.
        """
        own = (artifacts.c.team == team) & (artifacts.c.job_id == job_id) & artifacts.c.removed_at.is_(None)
        with self._database.write() as connection:
            return connection.execute(update(artifacts).where(own).values(removed_at=utcnow())).rowcount

    def get(self, team: str, job_id: str, name: str) -> dict[str, Any]:
        """One file's row with its ``relative_path`` under the artifacts' folder. Raises NotFound."""
        condition = (artifacts.c.team == team) & (artifacts.c.job_id == job_id) & (artifacts.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(
                select(*_PUBLIC, artifacts.c.relative_path).where(condition)
            ).one_or_none()
        if row is None:
            raise NotFound(
                f"Job {job_id} has no artifact {name[:200]!r}. Its artifact list shows what there is."
            )
        return dict(row._mapping)
