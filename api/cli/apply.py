"""``rankalloc apply``: a plan that somebody made, applied to the model it was made for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from allocator.base.errors import NotFound
from allocator.base.kinds import COMPRESS
from allocator.plan.documents.plan import Plan
from allocator.stages.request import BASELINES
from api.cli.app import app
from api.cli.connect import Server, service_of, wait
from api.cli.console import emit, on_device, settings, stderr
from api.cli.delivery import checked_out, deliver
from api.cli.local import TEAM, local_store
from api.cli.options import (
    Baselines,
    Device,
    Effort,
    EvaluationLength,
    Export,
    Heal,
    Json,
    Quiet,
    Samples,
    SequenceLength,
    TextColumn,
    request_fields,
    request_of,
)
from api.cli.sources import as_json


@app.command()
def apply(
    plan: Annotated[
        str,
        typer.Argument(help="A plan.json, a digest or its beginning, or alias:<name>.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face model folder; with --server local:<name> or hf:...", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write; must not exist yet, or be empty.", show_default=False)
    ],
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Text for moments, as of compress; with --server text:<name>. Default: the model's own."
        ),
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="Text for the final figures; as --calibration.")
    ] = None,
    text_column: TextColumn = None,
    export: Export = None,
    effort: Effort = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    evaluation_length: EvaluationLength = None,
    heal: Heal = 0,
    baselines: Baselines = BASELINES[0],
    device: Device = None,
    server: Server = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Apply a stored plan, or one from a file, to the model it is for: no profile is needed and nothing is solved again."""
    out = checked_out(out)
    options = request_fields(locals())
    if server:
        report = _by_service(server, options, plan, out)
        if json_output:
            emit(report)
        return
    from allocator.stages.stored_plan import resolved_request
    from api.cli.inline import local_request
    from api.cli.running import run_and_deliver

    configured = on_device(settings(), device)
    # The solver is the plan's: the job takes it from there.
    request = local_request(COMPRESS, {**options, "plan": named_plan(plan)})
    with local_store() as store:
        request = resolved_request(store, TEAM, request)
    report = run_and_deliver(configured, request, out, table=not json_output)
    if json_output:
        emit(report)


def _by_service(server: str, options: dict[str, Any], plan: str, out: Path) -> dict[str, Any]:
    """Have a service apply a plan that it has, and fetch what it wrote. The report."""
    from_file = _plan_in_file(plan)
    request = request_of(COMPRESS, {**options, "plan": plan if from_file is None else from_file.digest})
    out.parent.mkdir(parents=True, exist_ok=True)
    arriving = out.with_name(f".{out.name}.{os.getpid()}.arriving")
    with service_of(server) as client:
        job = as_json(client.jobs.submit(**{"kind": COMPRESS, **request.document}))
        stderr.print(f"job {job['id']} is {job['state']}", soft_wrap=True)
        wait(client, job["id"])
        try:
            client.jobs.download(job["id"], arriving)
            deliver(
                arriving, out, options["export"], way_out=f"`rankalloc jobs download {job['id']} --out DIR`"
            )
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
    stderr.print(f"written to {out}", soft_wrap=True, markup=False)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def named_plan(plan: str) -> str:
    """The digest of a plan that a file holds, which is stored on the way; any other text as it is."""
    from_file = _plan_in_file(plan)
    if from_file is None:
        return plan
    with local_store() as store:
        store.plans.put(TEAM, from_file, created_by=TEAM)
    return from_file.digest


def _plan_in_file(plan: str) -> Plan | None:
    """The plan in a file; None for the name of a plan.

    Raises:
        InvalidInput: the file holds no plan.
        NotFound: it looks like a file and is none.
    """
    from allocator.plan.files.plan_file import MAX_PLAN_BYTES, read_plan

    file = Path(plan)
    if not file.is_file():
        if "/" in plan or plan.endswith(".json"):
            raise NotFound(f"there is no file {plan}; name a plan.json, a digest or alias:<name>")
        return None
    with file.open("rb") as opened:
        return read_plan(opened.read(MAX_PLAN_BYTES + 1))
