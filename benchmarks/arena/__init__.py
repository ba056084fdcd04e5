"""The arena: published rules for choosing ranks, on the same curves, the same solvers and the same budgets."""
