"""The verbs of a team's member: those that REST serves and that commands use on this machine."""

from allocator.service.team import TeamStore

__all__ = ["TeamStore"]
