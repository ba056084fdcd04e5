"""Shares: what one team lets another see."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from allocator.base.access import Direction, ShareKind
from api.client.connection import Connection
from api.schemas.teams import ShareOut, SharePage


class Shares:
    """``client.shares``. Profiles and plans are named by their whole key or digest."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def add(self, kind: ShareKind, key: str, *, with_team: str) -> ShareOut:
        """Let another team see a profile or plan of yours. Repeating it is harmless."""
        body = {"kind": kind, "key": key, "with_team": with_team}
        return ShareOut.model_validate(self._client.json("POST", "/v1/shares", json=body, repeatable=True))

    def find(
        self,
        *,
        direction: Direction | None = None,
        kind: ShareKind | None = None,
        key: str | None = None,
        undone: bool = False,
    ) -> Iterator[ShareOut]:
        """Shares of your team with others (``given``) and of others with it (``received``), newest first, page after page as
        they are asked for. ``undone``: also those of the past.
        """
        query = {"direction": direction, "kind": kind, "key": key, "undone": undone}
        return self._client.pages("/v1/shares", SharePage, **query)

    def undo(self, share_id: str) -> None:
        """Hide it from the other team at once. Repeating it is harmless."""
        self._client.request("DELETE", f"/v1/shares/{quote(share_id, safe='')}", repeatable=True)
