"""The schema of profile files, ``rankalloc.profile-file/1``. No SQL, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from allocator.base.document import LOOSE, Count, Document, Sha256, Short
from allocator.plan.documents.curve import Samples
from allocator.plan.documents.profile import Around, BitsOf, Calibration, Cost, Facts
from allocator.plan.effort import EFFORTS

FILE_SCHEMA = "rankalloc.profile-file/1"


class CalibrationIn(Calibration):
    """With nothing left out."""

    tokens: Count
    fit_windows: Count
    measure_windows: Count


class IdentityIn(Document):
    """What the key is the hash of. Its parts are compared with the rest of the file; more of them do no harm."""

    schema_: Short = Field(alias="schema")
    solution: dict[str, JsonValue]
    effort: dict[str, JsonValue]
    steps: dict[str, JsonValue]
    bits: BitsOf = ()


class ProfileIn(Facts):
    """A profile without what is computed from it, and with nothing left out."""

    key: Sha256
    solver: Short
    """Whether there is such a method is asked where a profile is taken in: to plan nobody needs to know it."""
    solver_version: Short
    calibration: CalibrationIn
    effort: Literal[tuple(EFFORTS)]  # type: ignore[valid-type]
    cost: Cost
    around: Around | None
    identity: IdentityIn
    curves: Annotated[tuple[Samples, ...], LOOSE, Field(min_length=1, max_length=30_000)]


class FileIn(Document):
    """The whole file; ``sha256`` is over the canonical JSON of the rest."""

    schema_: Literal["rankalloc.profile-file/1"] = Field(alias="schema")
    profile: ProfileIn
    sha256: Sha256
