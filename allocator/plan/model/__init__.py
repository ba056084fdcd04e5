"""The subject of a plan: a model's shape, ranks and forms of its components, measured times. Types and integers."""
