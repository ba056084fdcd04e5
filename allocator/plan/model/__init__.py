"""What a plan is about: the model's shape, its costs, its loss curves."""
