"""``rankalloc profile``: measure a model's curves, on this machine, into the local store."""

from __future__ import annotations

from typing import Annotated

import typer

from allocator.base.kinds import PROFILE
from allocator.methods.registry import DEFAULT_METHOD
from api.cli.app import app
from api.cli.console import emit, on_device, settings, stdout
from api.cli.options import (
    Bits,
    Calibration,
    Device,
    Effort,
    Json,
    ModelFolder,
    Quiet,
    Samples,
    SequenceLength,
    Solver,
    TextColumn,
    request_fields,
)

_MOST_ROWS = 5


@app.command()
def profile(
    model: ModelFolder,
    calibration: Calibration = None,
    text_column: TextColumn = None,
    solver: Solver = DEFAULT_METHOD,
    effort: Effort = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    around: Annotated[
        str | None,
        typer.Option(
            metavar="PLAN", help="Measure around this stored plan instead of around the dense model."
        ),
    ] = None,
    bits: Bits = None,
    device: Device = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Measure what each component's rank is worth, on this machine; what the store knows is not measured again."""
    from allocator.plan.queries import most_sensitive, removals
    from api.cli.inline import TEAM, finished_job, local_request
    from api.cli.local import local_store
    from api.cli.profile_tables import costs, removals_table

    if around is not None:
        with local_store() as store:
            around = store.plans.resolve(TEAM, around)
    request = local_request(PROFILE, request_fields(locals()))
    with finished_job(on_device(settings(), device), request) as (store, job):
        assert job.profile_key is not None, "a profile job that succeeded has stored one"
        profile = store.profiles.get(TEAM, job.profile_key)
    largest = most_sensitive(removals(profile)[0])[:_MOST_ROWS]
    if json_output:
        emit(
            {
                "profile_key": profile.key,
                "cost": profile.cost,
                "most_sensitive": [removal.document for removal in largest],
            }
        )
        return
    stdout.print(f"profile {profile.key}")
    stdout.print(costs(profile))
    stdout.print(removals_table("most sensitive: 10 % of a component's rank removed alone", largest))
