"""The ``rankalloc`` command."""

from allocator.cli import profile, profiles, steps, teams
from allocator.cli.app import main

__all__ = ["main", "profile", "profiles", "steps", "teams"]
