"""What a team asks for: budgets, constraints, options of the solver."""
