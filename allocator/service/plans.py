"""Plans: solved, found, compared, talked about; and the names that people move among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import parse_metric
from allocator.plan.ask.choices import ILP
from allocator.plan.documents.difference import PlanDiff
from allocator.plan.documents.explanation import Explanation
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable
from allocator.service.aliases import PlanAliases
from allocator.store import Store, plan_views
from allocator.store.paging import Page, all_rows


class PlanQuery(TypedDict, total=False):
    """Conditions that plans meet, all of them."""

    model: str | None
    profile_key: str | None
    weights_sha256: str | None
    metric: str | None
    """With a budget on it, as in a budget without its value; that budget's limit is in the range of the next two."""
    min_limit: int | None
    max_limit: int | None
    min_loss_nats: float | None
    max_loss_nats: float | None
    label: str | None
    alias: str | None
    """What this alias points at."""


class Plans(PlanAliases):
    """``team.plans``. Wherever a plan is named, its digest, the digest's first characters or ``alias:<name>`` will do."""

    def __init__(
        self, store: Store, *, team: str, by: str, profile: Callable[[str], Profile] | None = None
    ) -> None:
        super().__init__(store, team=team, by=by)
        self._profile = profile or partial(store.profiles.get, team)

    def create(
        self,
        profile_key: str | Profile,
        budgets: Sequence[str],
        *,
        allocation: str = ILP,
        constraints: Mapping[str, Sequence[str]] | None = None,
        latency_table: str | LatencyTable | None = None,
        bits: Sequence[int] | None = None,
        least: str | None = None,
        max_loss_nats: float | None = None,
        keep: bool = True,
        **options: Any,
    ) -> Plan:
        """The plan with the least predicted loss under all budgets, or the least of a metric at a predicted loss.

        Args:
            profile_key: the profile's whole key; or the profile itself, which is then not read again.
            latency_table: for budgets on time, one that is stored (by its key), or any.
            bits: which of those that the profile has measured may be used; default: all, empty: none.
            keep: store it.
            options: of `allocator.plan.planning.plan_from_profile`, such as ``time_limit_s``.

        Raises:
            NotFound: no such profile or latency table.
            InvalidInput: a budget or constraint that cannot be.
            BudgetInfeasible: no ranks meet the budgets.
        """
        # The solver and its numerics take a moment to import, which most verbs need not wait for.
        from allocator.plan.inverse import plan_or_least

        if isinstance(latency_table, str):
            latency_table = self._store.latency_tables.get(self._team, latency_table)
        profile = self._profile(profile_key) if isinstance(profile_key, str) else profile_key
        plan = plan_or_least(
            profile,
            budgets,
            least=least,
            max_loss_nats=max_loss_nats,
            allocation=allocation,
            constraints=constraints,
            latency=latency_table,
            bits=bits,
            created_by=self._by,
            **options,
        )
        if keep:
            self._store.plans.put(self._team, plan, created_by=self._by)
        return plan

    def store_latency_table(self, document: Mapping[str, Any]) -> str:
        """The key of a table that ``rankalloc latency`` measured, stored. Named by its content; repeating it is harmless.

        Raises:
            InvalidInput: naming the field, what was found and what is allowed. Nothing is stored then.
        """
        from allocator.plan.files.latency_file import import_table

        table = import_table(json.dumps(dict(document), separators=(",", ":")).encode())
        self._store.latency_tables.put(self._team, table, created_by=self._by)
        return table.digest

    def page(
        self, *, limit: int = 50, cursor: str | None = None, **query: Unpack[PlanQuery]
    ) -> Page[dict[str, Any]]:
        """One page of `find`. Raises InvalidInput for a limit without its metric."""
        metric = query.get("metric")
        limits = query.get("min_limit"), query.get("max_limit")
        if metric is None and limits != (None, None):
            raise InvalidInput.of("metric", "nothing", "the metric whose limit is meant", "give")
        return self._store.plans.find(
            self._team,
            model=query.get("model"),
            profile_key=query.get("profile_key"),
            weights_sha256=query.get("weights_sha256"),
            metric=None if metric is None else parse_metric(metric).label,
            limits=limits,
            losses_nats=(query.get("min_loss_nats"), query.get("max_loss_nats")),
            label=query.get("label"),
            alias=query.get("alias"),
            limit=limit,
            cursor=cursor,
        )

    def find(self, **query: Unpack[PlanQuery]) -> Iterator[dict[str, Any]]:
        """Summaries of plans that meet every condition, newest first."""
        return all_rows(lambda cursor: self.page(cursor=cursor, **query))

    def get(self, plan: str) -> dict[str, Any]:
        """A plan document. Raises NotFound."""
        return self._store.plans.document(self._team, self.resolve(plan))

    def diff(self, a: str, b: str, *, batch: int | None = None, context: int | None = None) -> PlanDiff:
        """The changes from ``a`` to ``b``, component by component; with ``context`` the cache in total. Raises Conflict."""
        return plan_views.difference(self._store, self._team, a, b, batch=batch, context=context)

    def explanation(self, plan: str) -> Explanation:
        """Why every component kept or lost rank. Raises Conflict where another team shares the plan without its profile."""
        from allocator.plan.explain import explain

        stored = self._store.plans.get(self._team, self.resolve(plan))
        return explain(stored, self._store.profiles.of_plan(self._team, stored))

    def measurements(self, plan: str) -> list[dict[str, Any]]:
        """The measurements of jobs that applied it, oldest first."""
        return self._store.plans.measurements(self._team, self.resolve(plan))

    def lineage(self, plan: str) -> dict[str, Any]:
        """The profile and plan it comes from, the jobs that applied it, and what they wrote."""
        return plan_views.lineage(self._store, self._team, self.resolve(plan))

    def notes(self, plan: str, *, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """Its aliases, labels and newest comments."""
        digest = self.resolve(plan)
        return plan_views.notes(self._store, self._team, digest, limit=limit, cursor=cursor)

    def comment(self, plan: str, text: str) -> dict[str, Any]:
        """Say something about a plan."""
        return self._store.notes.add_comment(self._team, self.resolve(plan), text, by=self._by)

    def add_label(self, plan: str, label: str) -> dict[str, Any]:
        """Put a label on a plan. Repeating it is harmless."""
        return self.add_new_label(plan, label)[0]

    def add_new_label(self, plan: str, label: str) -> tuple[dict[str, Any], bool]:
        """As `add_label`; and whether it was not there before."""
        digest, notes = self.resolve(plan), self._store.notes
        new = notes.add_label(self._team, digest, label, by=self._by)
        return next(row for row in notes.labels(self._team, digest) if row["label"] == label), new

    def remove_label(self, plan: str, label: str) -> None:
        """Take a label off a plan. Repeating it is harmless."""
        self._store.notes.remove_label(self._team, self.resolve(plan), label, by=self._by)
