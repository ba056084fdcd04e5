"""The base that every part needs and that needs none of them: errors, settings, logs, digests, documents."""
