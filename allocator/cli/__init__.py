"""The ``rankalloc`` command."""

from allocator.cli import (
    apply,
    doctor,
    jobs,
    latency,
    plans,
    profile,
    profiles,
    push,
    shares,
    steps,
    teams,
)
from allocator.cli.app import main

__all__ = [
    "apply",
    "doctor",
    "jobs",
    "latency",
    "main",
    "plans",
    "profile",
    "profiles",
    "push",
    "shares",
    "steps",
    "teams",
]
