"""The facts of a job that stages go by: what preparing has found, the identity of its profile, and its plan."""

from __future__ import annotations

from typing import Any

from allocator.methods.method import Method
from allocator.methods.registry import METHODS
from allocator.plan.ask.choices import UNIFORM
from allocator.plan.documents.plan import Plan
from allocator.plan.identity import Identity
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.latency import LatencyTable
from allocator.stages.pipeline import JobView, StageContext


def facts_of(job: JobView) -> dict[str, Any]:
    """The facts that preparing has found: the result of the job's first stage."""
    return job.result("prepare")


def method_of_job(job: JobView) -> Method:
    """The method by which the job solves layers."""
    return METHODS[facts_of(job)["solver"]]


def job_identity(job: JobView) -> Identity:
    return Identity(facts_of(job)["identity"])


def geometry_of(job: JobView) -> Geometry:
    return Geometry.stored(facts_of(job)["geometry"])


def refines(job: JobView) -> bool:
    """Whether the job may measure around its plan: a compression unless it says no or applies a plan, a plan if it says so."""
    chooses_ranks = job.request.allocation != UNIFORM and job.request.applies is None
    return chooses_ranks and evaluations_of(job) > 0


def evaluations_of(job: JobView) -> int:
    """The number of evaluations that refinement may spend."""
    return job.request.evaluations(facts_of(job)["geometry"]["layers"])


def applied_plan(context: StageContext) -> Plan | None:
    """The stored plan that the job applies instead of making one. Raises NotFound where it is no longer there."""
    name = context.job.request.applies
    return None if name is None else context.store.plans.get(context.job.team, name)


def requested_latency_table(context: StageContext) -> LatencyTable | None:
    """The latency table that the request names. Raises NotFound."""
    return context.store.latency_tables.table(context.job.team, context.job.request.latency_table)


def plan_digest_of(job: JobView) -> str:
    """The plan that the job applies: the refined one where there is one."""
    refined = job.results.get("refine") or []
    return str(refined[0]["digest"] if refined else job.result("allocate")["digest"])


def job_plan(context: StageContext) -> Plan:
    """The job's plan, carrying the job's own name of the model: the stored one keeps the name it was first made under."""
    job = context.job
    plan = context.store.plans.get(job.team, plan_digest_of(job))
    model = plan.model.replaced(reference=facts_of(job)["reference"])
    # Whose it is is no part of what travels with the checkpoint.
    return plan.without("shared_by").replaced(model=model)
