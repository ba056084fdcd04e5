"""``rankalloc apply``: a plan that somebody made, applied to the model it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from allocator.cli.app import (
    Calibration,
    Device,
    Effort,
    Export,
    Heal,
    Json,
    ModelFolder,
    app,
    emit,
    on_device,
    settings,
)
from allocator.cli.local import TEAM, local_store
from allocator.errors import NotFound


@app.command()
def apply(
    plan: Annotated[
        str,
        typer.Argument(help="A plan.json, a digest or its beginning, or alias:<name>.", show_default=False),
    ],
    model: ModelFolder,
    out: Annotated[
        Path, typer.Option(help="Folder to write; must not exist yet, or be empty.", show_default=False)
    ],
    calibration: Calibration = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="UTF-8 text for the final figures. Default: evaluation.txt of the model folder."),
    ] = None,
    export: Export = "compact,padded",
    effort: Effort = "standard",
    heal: Heal = 0,
    device: Device = None,
    json_output: Json = False,
) -> None:
    """Apply a stored plan, or one from a file, to the model it is for: no profile is needed and nothing is solved again."""
    from allocator.cli.compress import check_export_and_heal, checked_out, run_and_deliver
    from allocator.cli.inline import request_of
    from allocator.jobs.applying import applied
    from allocator.profiling.effort import DEFAULT_SOLVER

    configured, out = on_device(settings(), device), checked_out(out)
    options: dict[str, Any] = {"model": model, "calibration": calibration, "evaluation": evaluation}
    options |= {"export": [part.strip() for part in export.split(",")], "effort": effort, "heal": heal}
    check_export_and_heal(options)
    # The solver is the plan's: the job takes it from there.
    request = request_of(
        {**options, "heal": heal or None, "solver": DEFAULT_SOLVER, "plan": named_plan(plan)}
    )
    del request["solver"]
    with local_store() as store:
        request = applied(store, TEAM, request)
    report = run_and_deliver(configured, request, out, quiet=json_output)
    if json_output:
        emit(report)


def named_plan(plan: str) -> str:
    """The digest of a plan that a file holds, which is stored on the way; any other text as it is.

    Raises:
        InvalidInput: the file holds no plan.
        NotFound: it looks like a file and is none.
    """
    from allocator.plan_file import MAX_PLAN_BYTES, read_plan

    file = Path(plan)
    if not file.is_file():
        if "/" in plan or plan.endswith(".json"):
            raise NotFound(f"there is no file {plan}; name a plan.json, a digest or alias:<name>")
        return plan
    with file.open("rb") as opened:
        document = read_plan(opened.read(MAX_PLAN_BYTES + 1))
    with local_store() as store:
        store.plans.put(TEAM, document["digest"], document, created_by=TEAM)
    return str(document["digest"])
