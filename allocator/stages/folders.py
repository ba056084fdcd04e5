"""What the command line asks of a model folder that a person names. Importing this imports the solvers."""

from solvers.checkpoints.companions import hub_patterns
from solvers.checkpoints.reading import aside_of
from solvers.folder import called, given

__all__ = ["aside_of", "called", "given", "hub_patterns"]
