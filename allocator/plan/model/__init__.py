"""What a plan is about: a model's shape, ranks and forms of its components, measured times. Types and integers."""
