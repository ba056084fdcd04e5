"""The ``rankalloc`` command."""

from allocator.cli.app import main

__all__ = ["main"]
