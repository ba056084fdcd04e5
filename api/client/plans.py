"""Plans and the names that people move among them. Wherever a plan is named, its digest, the digest's first characters or
``alias:<name>`` will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from allocator.plan.ask.choices import ILP
from allocator.plan.documents.difference import PlanDiff
from allocator.plan.documents.explanation import Explanation
from allocator.plan.documents.profile import Profile
from api.client.connection import Connection
from api.schemas.aliases import AliasChange, AliasHistory, AliasOut, AliasPage
from api.schemas.lineage import Lineage
from api.schemas.notes import CommentOut, LabelOut, Notes
from api.schemas.plans import Measurement, MeasurementList, PlanPage, PlanSummary


class Plans:
    """``client.plans``."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def create(
        self,
        profile_key: str | Profile,
        budgets: Sequence[str],
        *,
        allocation: str = ILP,
        constraints: Mapping[str, Sequence[str]] | None = None,
        latency_table: str | None = None,
        bits: Sequence[int] | None = None,
        least: str | None = None,
        max_loss_nats: float | None = None,
    ) -> dict[str, Any]:
        """The plan with the least predicted loss under all budgets (``rankalloc.plan/1``), stored. Raises BudgetInfeasible.

        ``profile_key``: a whole key, or the profile that has it.

        ``latency_table``: for budgets on time, what `store_latency_table` gave. ``bits``: which of those that the profile has
        measured may be used; default: all, empty: none. ``least`` and ``max_loss_nats``: instead, the least of a metric at a
        predicted loss.
        """
        body: dict[str, Any] = {
            "profile_key": profile_key if isinstance(profile_key, str) else profile_key.key,
            "budgets": list(budgets),
            "allocation": allocation,
        }
        options = {
            "latency_table": latency_table,
            "least": least,
            "max_loss_nats": max_loss_nats,
            "bits": None if bits is None else list(bits),
        }
        body |= {name: value for name, value in options.items() if value is not None}
        if constraints:
            body["constraints"] = {kind: list(texts) for kind, texts in constraints.items()}
        # Named by its content, so that making it twice is making it once.
        plan: dict[str, Any] = self._client.json("POST", "/v1/plans", json=body, repeatable=True)
        return plan

    def store_latency_table(self, document: Mapping[str, Any]) -> str:
        """The key of a table that ``rankalloc latency`` measured, stored. Named by its content; repeating it is harmless."""
        answer = self._client.json("POST", "/v1/latency-tables", json=dict(document), repeatable=True)
        return str(answer["key"])

    def find(
        self,
        *,
        model: str | None = None,
        profile_key: str | None = None,
        weights_sha256: str | None = None,
        metric: str | None = None,
        min_limit: int | None = None,
        max_limit: int | None = None,
        min_loss_nats: float | None = None,
        max_loss_nats: float | None = None,
        label: str | None = None,
        alias: str | None = None,
    ) -> Iterator[PlanSummary]:
        """Plans that meet every condition, newest first, page after page as they are asked for.

        ``metric`` (as in a budget without its value): with a budget on it, whose limit is in the range. ``alias``: the plan
        that it points at.
        """
        query = {name: value for name, value in locals().items() if name != "self"}
        return self._client.pages("/v1/plans", PlanPage, **query)

    def get(self, plan: str) -> dict[str, Any]:
        """A plan document."""
        document: dict[str, Any] = self._client.json("GET", _path(plan))
        return document

    def diff(self, a: str, b: str, *, batch: int | None = None, context: int | None = None) -> PlanDiff:
        """Changes from ``a`` to ``b``, component by component; with ``context`` the cache in total. Raises Conflict."""
        query = {"batch": batch, "context": context}
        url = f"{_path(a)}/diff/{quote(b, safe='')}"
        return PlanDiff.stored(self._client.json("GET", url, params=query))

    def explanation(self, plan: str) -> Explanation:
        """Why every component has its rank."""
        return Explanation.stored(self._client.json("GET", f"{_path(plan)}/explanation"))

    def measurements(self, plan: str) -> list[Measurement]:
        """Measurements of jobs that applied it, oldest first."""
        answer = self._client.json("GET", f"{_path(plan)}/measurements")
        return MeasurementList.model_validate(answer).items

    def lineage(self, plan: str) -> Lineage:
        """The profile and plan that it comes from, the jobs that applied it, the files they wrote."""
        return Lineage.model_validate(self._client.json("GET", f"{_path(plan)}/lineage"))

    def notes(self, plan: str) -> Notes:
        """Its aliases, labels and newest comments."""
        return Notes.model_validate(self._client.json("GET", f"{_path(plan)}/notes"))

    def comment(self, plan: str, text: str) -> CommentOut:
        """Say something about a plan. Not tried again: it would be said twice."""
        answer = self._client.json("POST", f"{_path(plan)}/comments", json={"text": text})
        return CommentOut.model_validate(answer)

    def add_label(self, plan: str, label: str) -> LabelOut:
        """Put a label on a plan. Repeating it is harmless."""
        answer = self._client.json("PUT", f"{_path(plan)}/labels/{quote(label, safe='')}", repeatable=True)
        return LabelOut.model_validate(answer)

    def remove_label(self, plan: str, label: str) -> None:
        """Take a label off a plan. Repeating it is harmless."""
        url = f"{_path(plan)}/labels/{quote(label, safe='')}"
        self._client.request("DELETE", url, repeatable=True)

    def alias(self, name: str) -> AliasOut:
        """An alias with its plan; changes of it need its ``version``."""
        return AliasOut.model_validate(self._client.json("GET", _alias(name)))

    def aliases(self, *, plan: str | None = None) -> Iterator[AliasOut]:
        """Aliases (of one plan), newest name first."""
        return self._client.pages("/v1/plan-aliases", AliasPage, plan=plan)

    def set_alias(self, name: str, plan: str, *, version: int | None = None) -> AliasOut:
        """Make an alias, or, with the ``version`` that you have seen, move it.

        Raises:
            PreconditionFailed: somebody has changed or made it since.
        """
        headers = {"If-None-Match": "*"} if version is None else _if_match(version)
        return AliasOut.model_validate(
            self._client.json("PUT", _alias(name), json={"plan": plan}, headers=headers)
        )

    def roll_back(self, name: str, *, version: int, to: int | None = None) -> AliasOut:
        """Point an alias at what it pointed at before, or in version ``to``. Raises as `set_alias`, and Conflict."""
        answer = self._client.json(
            "POST", f"{_alias(name)}/rollback", json={"version": to}, headers=_if_match(version)
        )
        return AliasOut.model_validate(answer)

    def delete_alias(self, name: str, *, version: int) -> None:
        """Forget where an alias points; its history stays. Raises as `set_alias`."""
        self._client.request("DELETE", _alias(name), headers=_if_match(version))

    def alias_history(self, name: str) -> Iterator[AliasChange]:
        """Every change of an alias, newest first."""
        return self._client.pages(f"{_alias(name)}/history", AliasHistory)


def _if_match(version: int) -> dict[str, str]:
    return {"If-Match": f'"{version}"'}


def _path(plan: str) -> str:
    return f"/v1/plans/{quote(plan, safe='')}"


def _alias(name: str) -> str:
    return f"/v1/plan-aliases/{quote(name, safe='')}"
