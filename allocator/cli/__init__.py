"""The ``rankalloc`` command."""

from allocator.cli import (
    apply,
    doctor,
    evaluate,
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
    "evaluate",
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
