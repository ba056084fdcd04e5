"""Every error a user can meet, in one tree.

RankallocError                 detail, fields[], exit_code (CLI), status (HTTP)
├── InvalidInput               400/422, exit 2: which field, what was found, what is allowed, what works
│   ├── BudgetSyntax           a budget that cannot be read
│   ├── UnsupportedModel       a model family or file we refuse, with the list of what we take
│   ├── UnreadableModel        a missing, corrupt or hostile checkpoint
│   └── UnusableText           a missing, empty or too short text
├── Unauthenticated            401: no token, or none that lives
├── Forbidden                  403: the token's scope is too narrow
├── BudgetInfeasible           422, exit 3: with the least every budget can reach
├── NotFound                   404, exit 2
├── Conflict                   409, exit 2: the object's state forbids this
├── PreconditionFailed         412
├── PreconditionRequired       428
├── TooManyRequests            429: says when to come back
├── JobFailed                  exit 4: a job ended in failed or crashed
│   ├── StorageFull            no room for what a job writes: says how much is free
│   └── CountMismatch          a written checkpoint does not hold what the cost model promised
├── StoreUnavailable           503
│   └── SchemaMismatch         the database is at another revision; says the command that mends it
├── LeaseLost                  internal: another attempt owns the item; discard the work
└── Cancelled                  internal: the job was cancelled; stop between units
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class FieldError:
    """One wrong field: where it is, what was found and what would be right."""

    field: str
    found: str
    allowed: str


class RankallocError(Exception):
    """Base of all errors with a message meant for a person.

    ``slug`` names the problem type, ``status`` is its HTTP status and ``exit_code`` what the CLI returns.
    """

    slug: ClassVar[str] = "error"
    title: ClassVar[str] = "Something went wrong"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, fields: list[FieldError] | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields or []
        self.extra = extra

    def document(self) -> dict[str, Any]:
        """The error as JSON: what a job row stores and what problem+json is made of."""
        return {
            "type": self.slug,
            "title": self.title,
            "detail": self.detail,
            "errors": [asdict(field) for field in self.fields],
            **self.extra,
        }


class InvalidInput(RankallocError):
    """The request cannot be carried out as written."""

    slug, title, status, exit_code = "invalid_input", "Invalid input", 422, 2

    @classmethod
    def of(
        cls, field: str, found: object, allowed: str, clause: str | None = None, *, at: str | None = None
    ) -> Self:
        """The refusal of one field, ``field: 'found' is not allowed``, which names what is allowed once.

        Args:
            clause: what stands between field and ``allowed``, where that is not ``'found' is not``.
            at: what the sentence begins with, where people know the field by another name: ``--out``.
        """
        detail = f"{at or field}: {f'{found!r} is not' if clause is None else clause} {allowed}"
        return cls(detail, fields=[FieldError(field, str(found), allowed)])


class BudgetSyntax(InvalidInput):
    """A budget that does not follow the grammar ``metric=value[@option=value,...]``."""

    slug, title = "budget_syntax", "Budget not understood"


class UnsupportedModel(InvalidInput):
    """A model of a family that no adapter covers, or one that would need remote code."""

    slug, title = "unsupported_model", "Model not supported"


class UnreadableModel(InvalidInput):
    """A model folder that is missing, incomplete, corrupt or that points outside itself."""

    slug, title = "unreadable_model", "Model cannot be read"


class UnusableText(InvalidInput):
    """A calibration or evaluation text that is missing, empty or too short."""

    slug, title = "unusable_text", "Text cannot be used"


class Unauthenticated(RankallocError):
    """The request carries no token, or one that is unknown, revoked or expired."""

    slug, title, status, exit_code = "unauthenticated", "Token needed", 401, 2


class Forbidden(RankallocError):
    """The caller is known but may not do this."""

    slug, title, status, exit_code = "forbidden", "Not allowed", 403, 2


class BudgetInfeasible(RankallocError):
    """No ranks meet the budgets; ``extra['achievable']`` holds the least each budget can reach."""

    slug, title, status, exit_code = "budget_infeasible", "Budget cannot be met", 422, 3


class NotFound(RankallocError):
    """No such object in the caller's team (another team's object answers the same)."""

    slug, title, status, exit_code = "not_found", "Not found", 404, 2


class Conflict(RankallocError):
    """The object's present state forbids the request."""

    slug, title, status, exit_code = "conflict", "Conflict", 409, 2


class PreconditionFailed(RankallocError):
    """The object changed since the caller read it."""

    slug, title, status, exit_code = "precondition_failed", "Changed meanwhile", 412, 2


class PreconditionRequired(RankallocError):
    """A change that could overwrite somebody else's has to say what it believes to be changing."""

    slug, title, status, exit_code = "precondition_required", "Say which version", 428, 2


class TooManyRequests(RankallocError):
    """A limit is reached; ``retry_after_s`` says when there may be room again."""

    slug, title, status, exit_code = "too_many_requests", "Limit reached", 429, 2

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class JobFailed(RankallocError):
    """A job ended without its result."""

    slug, title, status, exit_code = "job_failed", "Job failed", 500, 4


class StorageFull(JobFailed):
    """There is no room for what a job has to write; it works again once there is."""

    slug, title, status = "storage_full", "No room left", 507


class CountMismatch(JobFailed):
    """The tensors of a written checkpoint are not what the cost model promised."""

    slug, title = "count_mismatch", "Written checkpoint differs from the plan"


class StoreUnavailable(RankallocError):
    """The database does not answer."""

    slug, title, status, exit_code = "store_unavailable", "Store unavailable", 503, 1


class SchemaMismatch(StoreUnavailable):
    """The database is at another revision than this code. ``command`` mends it; ``detail`` says it too."""

    slug, title = "schema_mismatch", "Database schema is not current"

    def __init__(self, detail: str, *, command: str = "") -> None:
        super().__init__(detail)
        self.command = command


class LeaseLost(RankallocError):
    """Another attempt owns this item now; the work at hand must be discarded."""

    slug, title = "lease_lost", "Lease lost"


class Cancelled(RankallocError):
    """The job was cancelled; stop at once and keep what is already stored."""

    slug, title = "cancelled", "Cancelled"
