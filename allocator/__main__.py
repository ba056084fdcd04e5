"""``python -m allocator`` is ``rankalloc``."""

from allocator.cli import main

main()
