"""Distillation of a cut model toward its dense source, after the closed form."""
