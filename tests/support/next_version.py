"""The next version of rankalloc as a folder of its own: this checkout's code and one migration more, which it uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from allocator.base.settings import Settings
from allocator.store import migrate
from tests.support.processes import ROOT, environment, start

EXPAND, CONTRACT = "9001", "9002"
PACKAGES = ("allocator", "api", "solvers")

_MIGRATION = '''"""{what}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
additive = {additive}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''
_EXPANDS = (
    'op.create_table("next_things", sa.Column("id", sa.Integer(), nullable=False), sa.PrimaryKeyConstraint("id"))',
    'op.add_column("jobs", sa.Column("next_note", sa.String(64), nullable=True))',
    'op.create_index("ix_jobs_next_note", "jobs", ["next_note"])',
)
_SHRINKS = (
    'op.drop_index("ix_jobs_next_note", "jobs")',
    'op.drop_column("jobs", "next_note")',
    'op.drop_table("next_things")',
)
_TABLES = """
next_things = Table("next_things", metadata, Column("id", Integer, primary_key=True))
jobs.append_column(Column("next_note", String(64), default="next"))
Index(None, jobs.c.next_note)
"""


def write_expanding(versions: Path) -> None:
    """A table, a nullable column and an index more: what code of the revision before does not notice."""
    _write(versions, EXPAND, migrate.head(), _EXPANDS, _SHRINKS, additive=True)


def write_contracting(versions: Path) -> None:
    """A table less, on which code of the revision before relies."""
    drop = ('op.drop_table("plan_comments")',)
    _write(versions, CONTRACT, EXPAND, drop, ("raise NotImplementedError",), additive=False)


def _write(
    versions: Path,
    revision: str,
    before: str,
    upgrade: tuple[str, ...],
    downgrade: tuple[str, ...],
    *,
    additive: bool,
) -> None:
    up, down = ("\n    ".join(lines) for lines in (upgrade, downgrade))
    what = "Expands." if additive else "Contracts."
    values = {"what": what, "revision": revision, "before": before, "additive": additive}
    text = _MIGRATION.format(**values, upgrade=up, downgrade=down)
    (versions / f"{revision}_next.py").write_text(text, encoding="utf-8")


def migrations(folder: Path) -> Path:
    """A copy of the history in ``folder``, to which revisions can be added."""
    copy = folder / "migrations"
    shutil.copytree(ROOT / "migrations", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


class NextVersion:
    """An installation in ``folder`` whose schema is one expanding migration ahead, and whose jobs fill the new column."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for package in PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        self.versions = migrations(folder) / "versions"
        write_expanding(self.versions)
        with (folder / "allocator" / "store" / "job_tables.py").open("a", encoding="utf-8") as tables:
            tables.write(_TABLES)

    def start(self, settings: Settings, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """`processes.start` with this version's code."""
        path = environment(settings)["PYTHONPATH"].split(os.pathsep)
        path.insert(1, str(self.folder))
        more = {"PYTHONPATH": os.pathsep.join(path)}
        return start(settings, *arguments, cwd=self.folder, more=more, **options)

    def upgrade(self, settings: Settings) -> int:
        """``rankalloc db upgrade`` of this version; its exit status."""
        return self.start(settings, "-m", "api.cli", "db", "upgrade").wait()
