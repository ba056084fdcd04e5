"""What a finished job tells people: ``report.json``, ``report.html`` and the model card."""
