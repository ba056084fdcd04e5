"""The price of a target: a plan beside the one that plain transformers could have at the same budgets."""

from __future__ import annotations

from dataclasses import dataclass

from allocator.plan.ask.constraints import target_of
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable
from allocator.plan.planning import plan_from_profile
from allocator.plan.targets.registry import PLAIN


@dataclass(frozen=True)
class TargetPrice:
    """Predicted losses in nats/token, and bytes of cache per token as the target allocates them."""

    target: str
    loss_nats: float
    plain_loss_nats: float
    kv_bytes_per_token: int

    @property
    def sentence(self) -> str:
        more = self.loss_nats - self.plain_loss_nats
        return (
            f"target {self.target}: {more:+.4f} nats against plain transformers at the same budgets "
            f"({self.plain_loss_nats:.4f}); it allocates {self.kv_bytes_per_token:,} bytes of cache per token"
        )


def target_price(
    plan: Plan,
    profile: Profile,
    *,
    latency: LatencyTable | None = None,
) -> TargetPrice | None:
    """The price of the target that a plan names; None where it names none.

    Args:
        plan: made from ``profile``.
    """
    constraints = plan.constraints.written
    target = target_of(constraints)
    if target is PLAIN:
        return None
    del constraints["target"]
    plain = plan_from_profile(
        profile,
        plan.budget_texts,
        allocation=plan.allocation,
        constraints=constraints,
        latency=latency,
        bits=(),
    )
    kv_bytes = plan.costs["kv_bytes_per_token"]
    return TargetPrice(target.name, plan.predicted.loss_nats, plain.predicted.loss_nats, kv_bytes)
