"""Timing compact models on this machine for budgets on time: which models, with what weights, how, and what a rank costs."""
