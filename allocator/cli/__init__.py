"""The ``rankalloc`` command."""

from allocator.cli import profile, profiles
from allocator.cli.app import main

__all__ = ["main", "profile", "profiles"]
