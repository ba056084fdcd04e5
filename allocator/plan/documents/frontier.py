"""The frontier (``rankalloc.frontier/1``): the least predicted loss at every limit of one metric, or of two."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from allocator.base.document import LOOSE, Document, Short
from allocator.plan.documents.plan import BudgetLimit, NamedModel
from allocator.plan.documents.profile import BitsOf

FRONTIER_SCHEMA: Literal["rankalloc.frontier/1"] = "rankalloc.frontier/1"
_Amounts = Annotated[tuple[int, ...], LOOSE, Field(min_length=1, max_length=2)]


class FrontierMetric(Document):
    """A metric whose limits a frontier walks through."""

    metric: str = Field(description="with its options, as in a budget without its value")
    unit: str = Field(description="of the metric")


class FrontierPoint(Document):
    """The least predicted loss at one limit of each metric."""

    limits: _Amounts = Field(description="of the metrics")
    used: _Amounts = Field(description="of the limits, by the ranks of this point")
    loss_nats: float = Field(description="predicted, nats/token")
    bound_nats: float = Field(description="no ranks within the limits are predicted to lose less than this")
    gap: float = Field(description="relative")
    status: Short = Field(description="`optimal`, or `feasible` where the time ran out first")

    @property
    def proven(self) -> bool:
        """Whether no ranks within the limits lose less."""
        return self.status == "optimal"


class Frontier(Document):
    """The whole document: a curve of one metric, or a surface of two."""

    schema_: Literal["rankalloc.frontier/1"] = Field(alias="schema")
    model: NamedModel = Field(description="the profile's")
    profile_key: str = Field(description="of the profile that losses are predicted from")
    metrics: Annotated[tuple[FrontierMetric, ...], LOOSE, Field(min_length=1, max_length=2)]
    budgets: Annotated[tuple[BudgetLimit, ...], LOOSE] = Field(description="on other metrics, at every point")
    constraints: dict[Short, Annotated[tuple[str, ...], LOOSE]] = Field(
        description="by kind, as they were written, at every point"
    )
    bits: BitsOf = Field(
        default=(), description="those that ranks could have; absent where the profile has measured none"
    )
    dense: _Amounts = Field(description="what the dense model has of the metrics")
    points: Annotated[tuple[FrontierPoint, ...], LOOSE] = Field(
        description="the first metric slowest; losses never rise with a limit"
    )

    @property
    def proven(self) -> bool:
        """Whether every point is."""
        return all(point.proven for point in self.points)
