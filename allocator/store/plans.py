"""Plans: immutable documents named by their digest; measurements of them are rows of their own."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, and_, select, true, tuple_

from allocator.base.errors import InvalidInput, NotFound
from allocator.plan.documents.plan import Plan
from allocator.store import audit
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.plan_tables import plan_aliases, plan_budgets, plan_labels, plan_measurements, plans
from allocator.store.shares import (
    RowReference,
    listed,
    owners,
    provenance,
    row_reference,
    summary_of,
    visible,
)
from allocator.store.upserts import insert, insert_or_ignore

_SUMMARY = (
    plans.c.id,
    plans.c.team,
    plans.c.digest,
    plans.c.profile_key,
    plans.c.model,
    plans.c.weights_sha256,
    plans.c.predicted_loss_nats,
    plans.c.derivation,
    plans.c.derived_from,
    plans.c.created_by,
    plans.c.created_at,
)
ALIAS = "alias:"
_HEX = re.compile(r"[0-9a-f]+")
_SHORTEST_PREFIX = 6
_SHOWN = 3


def derivation_of(plan: Plan) -> tuple[str | None, str | None]:
    """A plan's way from another (``refined``, ``transferred``) and that one's digest; twice None: from a profile alone."""
    if plan.transfer is not None:
        return "transferred", plan.transfer.plan
    if plan.refinement is not None:
        return "refined", plan.refinement.start.digest
    return None, None


def _between(column: Column[Any], ends: tuple[float | None, float | None]) -> ColumnElement[bool]:
    low, high = ends
    conditions: list[ColumnElement[bool]] = [true()]
    if low is not None:
        conditions.append(column >= low)
    if high is not None:
        conditions.append(column <= high)
    return and_(*conditions)


def _noted(table: Table, team: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Plans beside which ``team`` has a row of ``table`` with this condition.

    Not as a subquery per plan: SQLite would ask it of every plan of the team where only a few have such a row.
    """
    return plans.c.digest.in_(select(table.c.digest).where(table.c.team == team, condition))


def _limited(team: str, metric: str, limits: tuple[int | None, int | None]) -> ColumnElement[bool]:
    """Plans with a budget on this metric, written beside them by the team that made them."""
    limited = select(plan_budgets.c.team, plan_budgets.c.digest).where(
        plan_budgets.c.team.in_(owners(team, "plan")),
        plan_budgets.c.metric == metric,
        _between(plan_budgets.c.limit_value, limits),
    )
    return tuple_(plans.c.team, plans.c.digest).in_(limited)


class Plans:
    """One row per (team, digest). A team sees its own, and those shared with it, which say so in ``shared_by``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, team: str, plan: Plan, *, created_by: str) -> bool:
        """Store a plan; False where the same plan is stored already (its first author stays)."""
        derivation, derived_from = derivation_of(plan)
        with self._database.write() as connection:
            new = insert_or_ignore(
                connection,
                plans,
                team=team,
                digest=plan.digest,
                profile_key=plan.profile_key,
                model=plan.model.reference,
                weights_sha256=plan.model.weights_sha256,
                document=plan.document,
                created_by=created_by,
                predicted_loss_nats=plan.predicted.loss_nats,
                derivation=derivation,
                derived_from=derived_from,
            )
            if new and plan.budgets:
                key = {"team": team, "digest": plan.digest}
                rows = [
                    {**key, "metric": budget.metric, "limit_value": budget.limit} for budget in plan.budgets
                ]
                connection.execute(plan_budgets.insert(), rows)
            if new:
                audit.add(connection, team, created_by, "made", "plan", plan.digest)
            return new

    def resolve(self, team: str, name: str) -> str:
        """The digest that is meant by a digest, by ``alias:<name>``, or by a digest's first characters, at least 6.

        Raises:
            NotFound: none is.
            InvalidInput: several digests begin so, or too few characters.
        """
        with self._database.read() as connection:
            if name.startswith(ALIAS):
                own_alias = (plan_aliases.c.team == team) & (plan_aliases.c.name == name.removeprefix(ALIAS))
                digest = connection.execute(select(plan_aliases.c.digest).where(own_alias)).scalar()
                if digest is None:
                    raise NotFound(f"There is no {name[:80]!r}. `GET /v1/plan-aliases` lists what there is.")
                return str(digest)
            mine = select(plans.c.digest).where(visible(team, "plan"))
            if connection.execute(mine.where(plans.c.digest == name)).scalar() is not None:
                return name
            digests: list[str] = []
            if _HEX.fullmatch(name):
                if len(name) < _SHORTEST_PREFIX:
                    allowed = f"a plan's digest, its first characters (at least {_SHORTEST_PREFIX}), or alias:<name>"
                    raise InvalidInput.of("plan", name, allowed)
                begins = mine.where(plans.c.digest.startswith(name, autoescape=True))
                digests = list(connection.execute(begins.order_by(plans.c.digest).limit(_SHOWN)).scalars())
        if not digests:
            raise NotFound(f"There is no plan {name[:128]!r}. `GET /v1/plans` lists what there is.")
        if len(digests) > 1:
            allowed = "more characters: " + ", ".join(digests)
            raise InvalidInput.of("plan", name, allowed, f"several begin with {name!r}; give")
        return digests[0]

    def get(self, team: str, digest: str) -> Plan:
        """The plan; a shared one with ``shared_by``. Raises NotFound."""
        return Plan.stored(self.document(team, digest))

    def document(self, team: str, digest: str, *, row: RowReference | None = None) -> dict[str, Any]:
        """The document that `get` reads, as it is stored: to be handed on as it is. Raises NotFound.

        Args:
            row: read this row alone, which `locate` gave.
        """
        stored = self._row(team, digest, plans.c.document, plans.c.team, row=row)
        return {**stored.document, **provenance(team, stored.team)}

    def locate(self, team: str, digest: str) -> RowReference:
        """The row that `get` would read, without reading its document. Raises NotFound."""
        return row_reference(team, self._row(team, digest, plans.c.id, plans.c.team))

    def summary(self, team: str, digest: str) -> dict[str, Any]:
        """Author, time and the columns of a plan, without its document. Raises NotFound."""
        return summary_of(self._row(team, digest, *_SUMMARY), team)

    def _row(self, team: str, digest: str, *columns: Column[Any], row: RowReference | None = None) -> Any:
        condition = visible(team, "plan") & (plans.c.digest == digest)
        if row is not None:
            condition &= plans.c.id == row.id
        with self._database.read() as connection:
            stored = connection.execute(select(*columns).where(condition)).one_or_none()
        if stored is None:
            raise NotFound(f"There is no plan {digest!r}. `GET /v1/plans` lists what there is.")
        return stored

    def find(
        self,
        team: str,
        *,
        profile_key: str | None = None,
        model: str | None = None,
        weights_sha256: str | None = None,
        derived_from: str | None = None,
        label: str | None = None,
        alias: str | None = None,
        metric: str | None = None,
        limits: tuple[int | None, int | None] = (None, None),
        losses_nats: tuple[float | None, float | None] = (None, None),
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Summaries (all columns but the document; ``shared_by`` a team or None), newest first.

        Args:
            metric: plans with a budget on it, written as plans write it (`Metric.label`).
            limits: least and largest limit of that budget, both included; None: open.
            losses_nats: least and largest predicted loss, both included.
            label, alias: the team's own, also on plans that another one shares.
        """
        statement = select(*_SUMMARY)
        for column, value in (
            (plans.c.profile_key, profile_key),
            (plans.c.model, model),
            (plans.c.weights_sha256, weights_sha256),
            (plans.c.derived_from, derived_from),
        ):
            if value is not None:
                statement = statement.where(column == value)
        if metric is not None:
            statement = statement.where(_limited(team, metric, limits))
        statement = statement.where(_between(plans.c.predicted_loss_nats, losses_nats))
        if label is not None:
            statement = statement.where(_noted(plan_labels, team, plan_labels.c.label == label))
        if alias is not None:
            statement = statement.where(_noted(plan_aliases, team, plan_aliases.c.name == alias))
        with self._database.read() as connection:
            statement = statement.where(listed(connection, team, "plan"))
            return fetch_page(
                connection, statement, plans.c.id, limit, cursor, lambda row: summary_of(row, team)
            )

    def add_measurement(self, team: str, digest: str, job_id: str, measured: dict[str, Any]) -> None:
        """Record what a job measured on the applied plan; a repeated item of the same job replaces its own
        row.
        """
        with self._database.write() as connection:
            statement = insert(connection, plan_measurements).values(
                team=team, digest=digest, job_id=job_id, measured=measured
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["team", "digest", "job_id"],
                    set_={"measured": statement.excluded.measured, "created_at": utcnow()},
                )
            )

    def measurements(self, team: str, digest: str) -> list[dict[str, Any]]:
        """All measurements of a plan, oldest first: ``{job_id, measured, created_at}``. Of a shared plan, its owner's."""
        columns = (plan_measurements.c.job_id, plan_measurements.c.measured, plan_measurements.c.created_at)
        owner = select(plans.c.team).where(visible(team, "plan"), plans.c.digest == digest).scalar_subquery()
        condition = (plan_measurements.c.team == owner) & (plan_measurements.c.digest == digest)
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(condition).order_by(plan_measurements.c.id))
            return [dict(row._mapping) for row in rows]
