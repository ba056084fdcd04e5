"""Profiles: what has been measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from allocator.plan.documents.frontier import Frontier
from allocator.plan.documents.sensitivity import Sensitivity
from allocator.plan.metrics.params import BlockParams
from api.client.connection import Connection
from api.schemas.answers import ImportedProfile, ProfilePage, ProfileSummary
from api.schemas.requests import NO_BITS


class Profiles:
    """``client.profiles``. ``get`` takes the first characters of a key, the others a whole one."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def find(
        self, *, model: str | None = None, weights_sha256: str | None = None, calibration: str | None = None
    ) -> Iterator[ProfileSummary]:
        """All profiles, newest first, page after page as they are asked for. ``calibration``: the text's sha256."""
        query = {"model": model, "weights_sha256": weights_sha256, "calibration": calibration}
        return self._client.pages("/v1/profiles", ProfilePage, **query)

    def get(self, key: str) -> dict[str, Any]:
        """A profile document (``rankalloc.profile/1``), by its key or the key's first characters, at least 6."""
        document: dict[str, Any] = self._client.json("GET", _path(key))
        return document

    def curves(
        self, key: str, *, layer: int | None = None, component: str | None = None
    ) -> list[dict[str, Any]]:
        """Loss against rank, of one layer or component or of all."""
        query = {"layer": layer, "component": component}
        answer = self._client.json("GET", f"{_path(key)}/curves", params=query)
        return list(answer["curves"])

    def sensitivity(
        self, key: str, *, remove: float = 0.1, metric: str = BlockParams.name, limit: int = 10
    ) -> Sensitivity:
        """Which components a cut hurts most and least."""
        query = {"remove": remove, "metric": metric, "limit": limit}
        return Sensitivity.stored(self._client.json("GET", f"{_path(key)}/sensitivity", params=query))

    def frontier(
        self,
        key: str,
        metric: Sequence[str],
        *,
        budgets: Sequence[str] = (),
        points: int = 20,
        bits: Sequence[int] | None = None,
    ) -> Frontier:
        """The least predicted loss at every limit of one metric or two (``rankalloc.frontier/1``); ``bits`` as for a plan."""
        query: dict[str, Any] = {"metric": list(metric), "budget": list(budgets), "points": points}
        if bits is not None:
            query["bits"] = list(bits) or NO_BITS
        return Frontier.stored(self._client.json("GET", f"{_path(key)}/frontier", params=query))

    def export(self, key: str) -> bytes:
        """The profile as one small file, for `import_` elsewhere."""
        headers = {"Accept": "application/gzip"}
        return self._client.request("GET", f"{_path(key)}/export", headers=headers).content

    def import_(self, data: bytes) -> ImportedProfile:
        """Take in such a file. It gets a key of its own. Repeating it is harmless."""
        headers = {"Content-Type": "application/gzip"}
        return ImportedProfile.model_validate(
            self._client.json("POST", "/v1/profiles", content=data, headers=headers, repeatable=True)
        )


def _path(key: str) -> str:
    return f"/v1/profiles/{quote(key, safe='')}"
