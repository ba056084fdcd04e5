"""Tables of ``docs/reference`` that are made from the code: ``python -m api.reference`` writes them into the pages."""
