"""The ``rankalloc`` command."""

from allocator.cli import apply, jobs, plans, profile, profiles, push, steps
from allocator.cli.app import main

__all__ = ["apply", "jobs", "main", "plans", "profile", "profiles", "push", "steps"]
