"""The ``rankalloc`` command."""

from allocator.cli import apply, doctor, jobs, plans, profile, profiles, push, steps, teams
from allocator.cli.app import main

__all__ = ["apply", "doctor", "jobs", "main", "plans", "profile", "profiles", "push", "steps", "teams"]
