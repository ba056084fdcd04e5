"""``rankalloc demo``: the main job on the bundled trained models, through the service's own front door.

It starts ``rankalloc serve`` as a process of its own and talks REST to it, as any client would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from allocator.base.access import DEFAULT_TEAM, SUBMIT
from allocator.base.errors import JobFailed
from allocator.base.kinds import COMPRESS, PLAN
from allocator.base.settings import Settings
from allocator.plan.documents.plan import Plan
from allocator.report.document import Report
from api.cli.connect import wait
from api.cli.console import stderr, stdout
from api.cli.remote import service_at
from api.cli.tables import comparison
from api.web.example import BUDGETS, MODELS

if TYPE_CHECKING:
    from allocator.jobs.document import JobDocument
    from api.client import Client

SECOND_BUDGETS = ["params=0.7", "kv_bytes_per_token=0.6", "flops_per_token=0.75@context=2048,phase=decode"]
_MEMBER = "rankalloc-demo"
_TOKEN_S = 86400.0


def run(settings: Settings, *, tables: bool) -> dict[str, Any]:
    """Compress every bundled model over REST, then plan a second budget from a stored profile.

    Raises:
        JobFailed: a job did not succeed, or the service did not start.
    """
    reports = []
    with (
        _service(settings) as url,
        _login(settings) as token,
        service_at(url, token) as client,
    ):
        stderr.print(f"service ready at {url}, data in {settings.home}", markup=False)
        for model in MODELS:
            job = _finished(client, {"kind": COMPRESS, "model": model, "budgets": list(BUDGETS)})
            folder = settings.artifacts_dir / job.id
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            reports.append(report)
            if tables:
                stdout.print(comparison(Report.stored(report)))
                stderr.print(f"  checkpoints and report.html: {folder}\n", soft_wrap=True)
        second = _finished(client, {"kind": PLAN, "model": MODELS[0], "budgets": SECOND_BUDGETS})
        assert second.plan is not None, "a plan job that succeeded has one"
        document = client.plans.get(second.plan)
    plan = Plan.stored(document)
    if tables and plan.certificate is not None:
        solved = plan.certificate.time_s * 1000
        stdout.print(
            f"the second budget ({'  '.join(SECOND_BUDGETS)}) was solved in {solved:.0f} ms from the stored profile:"
            f" predicted loss {plan.predicted.loss_nats:.4f} nats/token,"
            f" uniform {plan.baseline['uniform'].predicted_loss_nats:.4f}",
            soft_wrap=True,
        )
    return {"reports": reports, "second": document}


@contextmanager
def _service(settings: Settings) -> Iterator[str]:
    """A running ``rankalloc serve`` on a free port; stopped with everything it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--json"],
        env={**os.environ, **settings.environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        while line := process.stdout.readline():
            lines.append(line)
            if line.startswith("}"):
                break
        else:
            raise JobFailed("the service did not start; its messages are above")
        yield json.loads("".join(lines))["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _login(settings: Settings) -> Iterator[str | None]:
    """A token of its own, revoked afterwards; none where the store has had no token and nobody logs in."""
    from allocator.store import Store

    store = Store.open(settings)
    try:
        if not store.tokens.any():
            yield None
            return
        store.teams.put_member(DEFAULT_TEAM, _MEMBER, SUBMIT, actor=_MEMBER)
        created = store.tokens.create(
            DEFAULT_TEAM, _MEMBER, scope=SUBMIT, lifetime_s=_TOKEN_S, created_by=_MEMBER
        )
        try:
            yield created.secret
        finally:
            store.teams.remove_member(DEFAULT_TEAM, _MEMBER, actor=_MEMBER)
    finally:
        store.close()


def _finished(client: Client, request: dict[str, Any]) -> JobDocument:
    """Submit a job, draw its progress until it ends, and return its document."""
    stderr.print(
        f"[bold]{request['model']}[/bold]  {request['kind']}  {'  '.join(request['budgets'])}", soft_wrap=True
    )
    return wait(client, client.jobs.submit(**request).id)
