"""What every part needs and that needs none of them: errors, settings, logs, digests, documents."""
