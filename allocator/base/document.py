"""The common ground of all documents: one frozen class is the file's format, the stored JSON and the answer over REST.

They are types and no mathematics: whoever only hands them on loads no numerics.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from allocator.base.errors import FieldError, InvalidInput

SHOWN = 100
"""Most characters of a value that an error repeats."""
_FIELDS = 10
_DISAGREES = "disagrees"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]
Nats = Annotated[float, Field(ge=0, le=1e6)]
Change = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A loss that may be a gain: counted from a plan's own."""
Energy = Annotated[float, Field(ge=0, le=1e100)]
"""An analytic loss, in its component's own unit."""
Short = Annotated[str, Field(min_length=1, max_length=64)]
LOOSE = Field(strict=False)
"""For tuples: a list is one too. What is in it is as strict as ever."""


def timestamp(value: datetime) -> str:
    """A time as JSON carries it everywhere: ISO 8601 in UTC, to the millisecond."""
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_TIME = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000Z"]}
Timestamp = Annotated[datetime, LOOSE, PlainSerializer(timestamp, return_type=str), WithJsonSchema(_TIME)]
"""A time, which JSON has as text."""


def disagreement(allowed: str) -> PydanticCustomError:
    """The error for a value, well formed itself, that the rest of the document does not allow; ``allowed``: what it does."""
    return PydanticCustomError(_DISAGREES, "{allowed}", {"allowed": allowed})


def _printable(part: int | str) -> int | str:
    """A part of a field's place, whose names anybody may have made up: on a terminal no more than text."""
    return part if isinstance(part, int) else (part if part.isprintable() else ascii(part)[1:-1])[:SHOWN]


class Document(BaseModel):
    """A frozen model: nothing is converted, nothing is unknown, no number is NaN or infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON. What was left out stays out, so that digests stay what they were."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def replaced(self, **changes: Any) -> Self:
        """The same with other values, which are checked."""
        return type(self).model_validate(
            {**{n: getattr(self, n) for n in self.model_fields_set}, **changes}, by_name=True
        )

    def without(self, *names: str) -> Self:
        """The same with these fields left out."""
        fields = {name: getattr(self, name) for name in self.model_fields_set.difference(names)}
        return type(self).model_validate(fields, by_name=True)

    @classmethod
    def stored(cls, document: Any) -> Self:
        """A document out of a store: what a later version may have added is left alone."""
        return cls.model_validate(document, extra="ignore")

    @classmethod
    def read(cls, document: Any, what: str = "") -> Self:
        """A document that anybody may have written.

        Args:
            what: what the document is called in errors.

        Raises:
            InvalidInput: naming the fields, what was found and what is allowed.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)[:_FIELDS]
            fields = [
                FieldError(
                    cls._field(tuple(map(_printable, fault["loc"]))),
                    "nothing" if fault["type"] == "missing" else repr(fault["input"])[:SHOWN],
                    fault["msg"],
                )
                for fault in faults
            ]
            first, words = fields[0], "allowed is " if faults[0]["type"] == _DISAGREES else ""
            detail = f"{first.field}: found {first.found}; {words}{first.allowed}"
            raise InvalidInput(f"{what}: {detail}" if what else detail, fields=fields) from None

    @classmethod
    def _field(cls, place: tuple[int | str, ...]) -> str:
        """How errors name a field."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
