"""Requests as people write them: budgets, constraints, choices."""
