"""A service as the source of a command, through the Python client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from allocator.base.access import ShareKind
from allocator.base.errors import FieldError, InvalidInput, PreconditionRequired, RankallocError
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable
from api import client as api
from api.cli.sources import Document, not_shared


@contextmanager
def remote_source(server: str, token: str | None = None) -> Iterator[RemoteSource]:
    """The service at this address, by a token or that of ``RANKALLOC_TOKEN``; refusals become the command line's errors."""
    try:
        with api.Client(server, token=token or os.environ.get("RANKALLOC_TOKEN")) as client:
            yield RemoteSource(client)
    except api.Refused as error:
        raise _refusal(error) from error
    except api.ClientError as error:
        raise RankallocError(f"{server}: {error}") from error


def _refusal(error: api.Refused) -> RankallocError:
    fields = [
        FieldError(str(each.get("field")), str(each.get("found")), str(each.get("allowed")))
        for each in error.problem.get("errors") or []
    ]
    if isinstance(error, api.PreconditionRequired):
        return PreconditionRequired(str(error), fields=fields)
    detail = str(error)
    if isinstance(error, api.Unauthorized):
        detail += " (the token is read from RANKALLOC_TOKEN)"
    found = RankallocError(detail, fields=fields)
    found.exit_code = 3 if isinstance(error, api.BudgetInfeasible) else 2 if error.status < 500 else 1  # type: ignore[misc]
    return found


def _json(model: BaseModel) -> Document:
    return model.model_dump(mode="json", by_alias=True)


class RemoteSource:
    """`api.cli.sources.Source` over REST."""

    def __init__(self, client: api.Client) -> None:
        self._client = client

    def profiles(self, model: str | None) -> list[Document]:
        return [_json(each) for each in self._client.profiles.find(model=model)]

    def profile(self, key: str) -> Profile:
        return Profile.stored(self._client.profiles.get(key))

    def import_profile(self, data: bytes, *, trust: bool) -> Document:
        if trust:
            raise InvalidInput("--trust: a service takes nobody's word; import it on its own machine")
        return _json(self._client.profiles.import_(data))

    def create_plan(
        self,
        profile: Profile,
        budgets: Sequence[str],
        constraints: Mapping[str, Sequence[str]] | None,
        *,
        latency: LatencyTable | None = None,
        bits: Sequence[int] | None = None,
        least: str | None = None,
        max_loss_nats: float | None = None,
    ) -> Plan:
        table = None if latency is None else self._client.plans.store_latency_table(latency.document)
        found = self._client.plans.create(
            profile.key,
            budgets,
            constraints=constraints,
            latency_table=table,
            bits=bits,
            least=least,
            max_loss_nats=max_loss_nats,
        )
        return Plan.stored(found)

    def plans(self, query: Mapping[str, Any], limit: int) -> list[Document]:
        return [_json(each) for each in islice(self._client.plans.find(**query), limit)]

    def plan(self, plan: str) -> Document:
        return self._client.plans.get(plan)

    def diff(self, a: str, b: str, *, batch: int | None, context: int | None) -> Document:
        return _json(self._client.plans.diff(a, b, batch=batch, context=context))

    def lineage(self, plan: str) -> Document:
        return _json(self._client.plans.lineage(plan))

    def notes(self, plan: str) -> Document:
        return _json(self._client.plans.notes(plan))

    def comment(self, plan: str, text: str) -> Document:
        return _json(self._client.plans.comment(plan, text))

    def label(self, plan: str, label: str, *, remove: bool) -> None:
        if remove:
            self._client.plans.remove_label(plan, label)
        else:
            self._client.plans.add_label(plan, label)

    def aliases(self) -> list[Document]:
        return [_json(each) for each in self._client.plans.aliases()]

    def alias(self, name: str) -> Document:
        return _json(self._client.plans.alias(name))

    def alias_history(self, name: str) -> list[Document]:
        return [_json(each) for each in self._client.plans.alias_history(name)]

    def set_alias(self, name: str, plan: str, version: int | None) -> Document:
        try:
            return _json(self._client.plans.set_alias(name, plan, version=version))
        except api.PreconditionFailed as error:
            if version is None:
                raise PreconditionRequired(str(error)) from error
            raise

    def roll_back(self, name: str, version: int, to: int | None) -> Document:
        return _json(self._client.plans.roll_back(name, version=version, to=to))

    def delete_alias(self, name: str, version: int) -> None:
        self._client.plans.delete_alias(name, version=version)

    def _named(self, kind: ShareKind, name: str) -> str:
        return str(self.plan(name)["digest"] if kind == "plan" else self.profile(name).key)

    def share(self, kind: ShareKind, name: str, team: str) -> Document:
        return _json(self._client.shares.add(kind, self._named(kind, name), with_team=team))

    def unshare(self, kind: ShareKind, name: str, team: str) -> Document:
        key = self._named(kind, name)
        for share in self._client.shares.find(direction="given", kind=kind, key=key):
            if share.with_team == team:
                self._client.shares.undo(share.id)
                return _json(share)
        raise not_shared(kind, key, team)

    def shares(self, kind: ShareKind, *, undone: bool) -> list[Document]:
        return [_json(each) for each in self._client.shares.find(kind=kind, undone=undone)]

    def submit(self, request: Document, idempotency_key: str | None) -> Document:
        return _json(self._client.jobs.submit(idempotency_key=idempotency_key, **request))

    def retry(self, job_id: str) -> Document:
        return _json(self._client.jobs.retry(job_id))

    def jobs(self, *, state: str | None, model: str | None, limit: int) -> list[Document]:
        return [_json(each) for each in islice(self._client.jobs.find(state=state, model=model), limit)]

    def job(self, job_id: str) -> Document:
        return _json(self._client.jobs.get(job_id))

    def events(self, job_id: str, after: int) -> list[Document]:
        return [_json(each) for each in self._client.jobs.events(job_id, after=after)]

    def cancel(self, job_id: str) -> Document:
        return _json(self._client.jobs.cancel(job_id))

    def download(self, job_id: str, out: Path) -> list[Path]:
        return self._client.jobs.download(job_id, out)
