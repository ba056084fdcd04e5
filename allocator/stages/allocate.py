"""The plan: the integer program over the stored curves."""

from __future__ import annotations

from typing import Any

from allocator.base.settings import Settings
from allocator.plan.ask.choices import ILP
from allocator.plan.planning import plan_from_profile
from allocator.stages.facts import applied_plan, facts_of, requested_latency_table
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.store import Store


class AllocateStage:
    """One item; milliseconds. Where a stored plan is applied, that is the plan."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("plan")]

    def run(self, context: StageContext) -> dict[str, Any]:
        job = context.job
        if stored := applied_plan(context):
            context.link(plan_digest=stored.digest)
            loss = stored.predicted.loss_nats
            context.event(
                "plan.taken",
                f"applying stored plan {stored.digest[:12]}, predicted loss {loss:.4f} nats/token",
                {"digest": stored.digest, "predicted_loss_nats": loss},
            )
            return {"digest": stored.digest}
        profile = context.store.profiles.get(job.team, job.result("assemble")["profile_key"])
        model = profile.model.replaced(reference=facts_of(job)["reference"])
        plan = plan_from_profile(
            profile.replaced(model=model),
            job.request.budgets,
            allocation=job.request.allocation or ILP,
            constraints=job.request.limits,
            latency=requested_latency_table(context),
            created_by=job.created_by,
        )
        context.store.plans.put(job.team, plan, created_by=job.created_by)
        context.link(plan_digest=plan.digest)
        certificate, loss = plan.certificate, plan.predicted.loss_nats
        proof = (
            "uniform ranks"
            if certificate is None
            else f"{certificate.status}, gap {certificate.gap:.1e}, solved in {certificate.time_s * 1000:.0f} ms"
        )
        context.event(
            "plan.chosen",
            f"predicted loss {loss:.4f} nats/token ({proof})",
            {"digest": plan.digest, "predicted_loss_nats": loss},
        )
        return {"digest": plan.digest}
