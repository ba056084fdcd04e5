"""The client: a connection, and the verbs of jobs, profiles, plans and shares over it."""

from __future__ import annotations

import os
from typing import Any, Self

from api.client.connection import Connection
from api.client.errors import ClientError
from api.client.jobs import Jobs
from api.client.plans import Plans
from api.client.profiles import Profiles
from api.client.shares import Shares


class Client(Connection):
    """Everything of a server that belongs to its caller's team. Arguments as those of `Connection`."""

    def __init__(self, server: str, **options: Any) -> None:
        super().__init__(server, **options)
        self.jobs = Jobs(self)
        self.profiles = Profiles(self)
        self.plans = Plans(self)
        self.shares = Shares(self)

    @classmethod
    def from_environment(cls, **options: Any) -> Self:
        """The server of ``RANKALLOC_SERVER`` with the token of ``RANKALLOC_TOKEN``. Raises ClientError without the former."""
        server = os.environ.get("RANKALLOC_SERVER", "")
        if not server:
            raise ClientError("set RANKALLOC_SERVER to the service's address, such as http://127.0.0.1:8321")
        return cls(server, token=os.environ.get("RANKALLOC_TOKEN"), **options)

    def version(self) -> dict[str, Any]:
        """The server's version, the API's, and the revision of its database."""
        answer: dict[str, Any] = self.json("GET", "/v1/version")
        return answer
