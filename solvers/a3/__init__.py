"""The mathematics of A3 and of what goes beyond it: a layer's moments, its solutions at all ranks, losses, error feedback."""
