"""The ``rankalloc`` command."""
