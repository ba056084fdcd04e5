"""Faults, injected into real processes at random times: ``python -m tests.faults --help``."""
