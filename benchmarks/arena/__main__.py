"""``python -m benchmarks.arena``."""

from benchmarks.arena.run import main

main()
