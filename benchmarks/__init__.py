"""Every number in the README and in docs/benchmarks/results.md comes from ``python -m benchmarks.run`` (``make bench``)."""
