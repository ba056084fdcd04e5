"""Addresses of a job's events, files, plan and profile, and of what can be done with it now."""

from __future__ import annotations

from allocator.jobs.submit import RETRIED
from allocator.store import Job, states
from api.web.addresses import address


def links_of(job: Job) -> dict[str, str]:
    """Name of each thing beside a job -> its address."""
    base = address(f"/v1/jobs/{job.id}")
    links = {"self": base, "events": f"{base}/events", "stream": f"{base}/events/stream"}
    links["artifacts"] = f"{base}/artifacts"
    if job.state not in states.TERMINAL:
        links["cancel"] = f"{base}/cancel"
    if job.state in RETRIED and not job.inline:
        links["retry"] = f"{base}/retry"
    if job.retry_of:
        links["retry_of"] = address(f"/v1/jobs/{job.retry_of}")
    if job.plan_digest:
        links["plan"] = address(f"/v1/plans/{job.plan_digest}")
    if job.profile_key:
        links["profile"] = address(f"/v1/profiles/{job.profile_key}")
    return links
