"""Every number in the README and in docs/benchmarks.md comes from ``python -m benchmarks.run`` (``make bench``)."""
