"""Single steps beside ``compress``: a plan from a stored profile, whether a fine-tune may reuse one, and cleaning up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from allocator.base.kinds import TRANSFER
from allocator.plan.documents.plan import Plan
from api.cli.app import app
from api.cli.connect import Server, source_of
from api.cli.console import emit, on_device, settings, stderr, stdout
from api.cli.local import TEAM, local_store
from api.cli.options import (
    Align,
    BitsOfProfile,
    Budget,
    Calibration,
    Device,
    Json,
    LatencyFile,
    MinRank,
    ModelFolder,
    Pin,
    Quiet,
    Target,
    TextColumn,
    Tie,
    constraints_of,
    parsed_bits,
    request_fields,
    table_of_file,
)
from api.cli.profiles import Key
from api.cli.sources import profile_of


@app.command()
def plan(
    profile: Key,
    budget: Budget = [],  # noqa: B006 - typer wants a list
    least: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Instead of the least loss: the least of this metric at --max-loss, such as kv_bytes_per_token.",
            show_default=False,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            metavar="NATS", help="With --least: the largest predicted loss, nats/token.", show_default=False
        ),
    ] = None,
    align: Align = [],  # noqa: B006
    min_rank: MinRank = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
    tie: Tie = [],  # noqa: B006
    target: Target = None,
    bits: BitsOfProfile = None,
    latency_table: LatencyFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the plan to this new JSON file.", show_default=False)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say why each component has its rank.")
    ] = False,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Make the plan with the least predicted loss under the budgets from a stored profile: milliseconds, no model is read.

    With --least, the plan with the least of a metric at a predicted loss.
    """
    from allocator.plan.explain import explain as explain_plan
    from allocator.plan.target_price import target_price
    from api.cli.delivery import checked_file, write_file
    from api.cli.plan_tables import plan_table

    out = None if out is None else checked_file(out)
    with source_of(server) as source:
        document = profile_of(source, profile)
        table = table_of_file(latency_table)
        created = source.plans.create(
            document,
            budget,
            constraints=constraints_of(align, min_rank, pin, tie, target),
            latency_table=None if table is None else source.plans.store_latency_table(table.document),
            bits=parsed_bits(bits),
            least=least,
            max_loss_nats=max_loss,
        )
    solved = created if isinstance(created, Plan) else Plan.stored(created)
    if out is not None:
        write_file(out, json.dumps(solved.document, indent=2) + "\n")
    explained = explain_plan(solved, document) if explain else None
    if json_output:
        emit({**solved.document, **({} if explained is None else {"explanation": explained.document})})
    else:
        stdout.print(f"plan {solved.digest}")
        stdout.print(plan_table(solved))
        if (price := target_price(solved, document, latency=table)) is not None:
            stdout.print(price.sentence, soft_wrap=True)
        for row in () if explained is None else explained.components:
            stdout.print(f"layer {row.layer} {row.component}: {row.why}", soft_wrap=True)


@app.command()
def transfer(
    model: ModelFolder,
    profile: Annotated[
        str, typer.Option(help="Key of the stored profile, or its first characters.", show_default=False)
    ],
    plan: Annotated[
        str | None,
        typer.Option(help="A plan made from it: digest, its beginning or alias:<name>.", show_default=False),
    ] = None,
    calibration: Calibration = None,
    text_column: TextColumn = None,
    device: Device = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Judge by a few probes whether a stored profile, or a plan made from it, holds for this fine-tune of the profiled model.

    If a plan holds, one for the fine-tune is stored.
    """
    from allocator.plan.identity import identity_of
    from api.cli.inline import finished_job, local_request
    from api.cli.plan_tables import transfer_table

    configured = on_device(settings(), device)
    with local_store() as store:
        profile = store.profiles.resolve(TEAM, profile)
        compared = store.profiles.get(TEAM, profile)
        identity_of(compared)  # raises for an earlier version's
        plan = None if plan is None else store.plans.resolve(TEAM, plan)
    request = local_request(TRANSFER, request_fields(locals()))
    # How it is measured is the profile's: the job takes solver and effort from there.
    with finished_job(configured, request, profile=compared) as (_, job):
        file = configured.artifacts_dir / job.id / "transfer.json"
        document = json.loads(file.read_text(encoding="utf-8"))
    if json_output:
        emit(document)
    else:
        stdout.print(transfer_table(document))
        stdout.print(f"{document['verdict']}: {document['why']}", soft_wrap=True, markup=False)
        if transferred := (document["plan"] or {}).get("transferred"):
            stdout.print(f"plan for this model: {transferred}", soft_wrap=True)


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json_output: Json = False,
) -> None:
    """Remove intermediate results that retention lets go of (RANKALLOC_MOMENTS_KEEP_DAYS, ..._BYTES); never an open job's."""
    from allocator.jobs.host.retention import clean as let_go

    with local_store() as store:
        gone = let_go(store, settings(), dry_run=dry_run)
    freed = sum(folder.bytes for folder in gone)
    if json_output:
        names = [folder.path.name for folder in gone]
        emit({"dry_run": dry_run, "folders": names, "bytes": freed})
    else:
        verb = "would be removed" if dry_run else "removed"
        sys.stdout.write(f"{len(gone)} folders of intermediate results, {freed:,} bytes {verb}\n")
        if gone and dry_run:
            stderr.print("run it without --dry-run to remove them")
