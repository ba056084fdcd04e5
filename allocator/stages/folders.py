"""What the command line asks of a model folder that a person names. Importing this imports the solvers."""

from solvers.companions import hub_patterns
from solvers.folder import called, given
from solvers.reading import aside_of

__all__ = ["aside_of", "called", "given", "hub_patterns"]
