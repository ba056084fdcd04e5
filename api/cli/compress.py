"""``rankalloc compress``: one machine, one command, the same stages as the workers run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allocator.methods.registry import DEFAULT_METHOD
from allocator.plan.ask.choices import ILP
from allocator.stages.request import BASELINES
from api.cli.app import app
from api.cli.console import emit, on_device, settings
from api.cli.options import (
    Align,
    Baselines,
    Bits,
    Budget,
    Calibration,
    Device,
    Effort,
    EvaluationLength,
    Evaluations,
    Export,
    Heal,
    Json,
    LatencyFile,
    MinRank,
    ModelFolder,
    Pin,
    Quiet,
    Samples,
    SequenceLength,
    Solver,
    Target,
    TextColumn,
    Tie,
    request_fields,
)


@app.command()
def compress(
    model: ModelFolder,
    out: Annotated[
        Path, typer.Option(help="Folder to write; must not exist yet, or be empty.", show_default=False)
    ],
    budget: Budget,
    calibration: Calibration = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="Text for the final figures, as --calibration. Default: evaluation.txt of the model folder."
        ),
    ] = None,
    text_column: TextColumn = None,
    solver: Solver = DEFAULT_METHOD,
    allocation: Annotated[str, typer.Option(help="ilp: mixed ranks; uniform: one ratio everywhere.")] = ILP,
    export: Export = None,
    effort: Effort = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    evaluation_length: EvaluationLength = None,
    align: Align = [],  # noqa: B006 - typer wants a list
    min_rank: MinRank = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
    tie: Tie = [],  # noqa: B006
    target: Target = None,
    latency_table: LatencyFile = None,
    bits: Bits = None,
    refine: Evaluations = None,
    heal: Heal = 0,
    baselines: Baselines = BASELINES[0],
    device: Device = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Compress a model under budgets on this machine, without a server; a second budget reuses the stored profile."""
    from api.cli.running import run

    report = run(on_device(settings(), device), request_fields(locals()), out, table=not json_output)
    if json_output:
        emit(report)
