"""Profiles, plans and latency tables as files: schemas, consistency, import and export."""
