"""Loss curves: interpolated between measured ranks, or predicted from gradients."""
