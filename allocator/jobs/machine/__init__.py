"""The job machine: who executes which item, leases, wake-ups, recovery."""
