"""Databases as earlier revisions wrote them (`tests.assets.freeze`)."""
