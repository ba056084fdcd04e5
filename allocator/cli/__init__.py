"""The ``rankalloc`` command."""

from allocator.cli import latency, profile, profiles, steps
from allocator.cli.app import main

__all__ = ["latency", "main", "profile", "profiles", "steps"]
