"""What a team's member does with what is stored: the verbs that REST serves and that commands use on this machine."""

from allocator.service.team import TeamStore

__all__ = ["TeamStore"]
