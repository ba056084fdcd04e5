"""The ``rankalloc`` command."""

from allocator.cli import apply, profile, profiles, steps
from allocator.cli.app import main

__all__ = ["apply", "main", "profile", "profiles", "steps"]
