"""Measuring losses on a model. The only part of the core besides the apply and evaluate stages that needs torch."""
