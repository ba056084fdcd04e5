"""The ``rankalloc`` command."""

from allocator.cli import doctor, profile, profiles, steps, teams
from allocator.cli.app import main

__all__ = ["doctor", "main", "profile", "profiles", "steps", "teams"]
