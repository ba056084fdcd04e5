"""``rankalloc latency``: how long a model's components take at several ranks on this machine, for budgets on time."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from allocator.plan.metrics.kind import WORDS
from allocator.plan.model.dtypes import FLOATS
from api.cli.app import app
from api.cli.console import bad_option, emit, on_device, settings, stderr, stdout
from api.cli.delivery import checked_file, write_file
from api.cli.folders import folder_at, tell_aside
from api.cli.options import Device, Json, ModelFolder, Quiet
from api.cli.progress import counted

if TYPE_CHECKING:
    from allocator.profiling.timing.models import Setup

_PHASES = WORDS["phase"]


def _numbers(name: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 1 <= len(part) <= 7 and int(part) for part in parts):
        raise bad_option(name, text, "whole numbers from 1, separated by commas, as in 1,8")
    return list(dict.fromkeys(map(int, parts)))


_OF_A_TABLE = ("batch", "context", "phase", "points", "layers", "dtype")


@app.command()
def latency(
    ctx: typer.Context,
    model: ModelFolder,
    out: Annotated[
        Path | None, typer.Option(help="The new JSON file, the table.", show_default=False)
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A plan.json with budgets on time: time it here beside the dense model, in place of a new table.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    context: Annotated[str, typer.Option(help="Sequence lengths, separated by commas.")] = "2048",
    phase: Annotated[
        str, typer.Option(help="prefill, decode, or both separated by a comma.")
    ] = "prefill,decode",
    points: Annotated[int, typer.Option(min=2, max=256, help="Ranks of each component.")] = 9,
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Turns of every model.")] = 9,
    layers: Annotated[
        int, typer.Option(min=2, max=10_000, help="Layers built; the others are taken to be like them.")
    ] = 4,
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of the weights. Default: the checkpoint's own.", show_default=False),
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Time the model's components on this machine, for budgets like latency=0.8@batch=1,context=2048,phase=decode.

    With --plan, time a plan that was made with such budgets: does it keep them?
    """
    if (out is None) == (plan is None):
        raise bad_option("out", "both" if out else "nothing", "--out FILE for a new table, or --plan FILE")
    if plan is not None:
        for name in _OF_A_TABLE:
            source = ctx.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise bad_option(name, str(ctx.params[name]), "left out beside --plan, which says it")
        judged = _judged(model, plan, rounds, device)
        if json_output:
            emit({"promises": judged})
        else:
            _show_verdicts(judged)
        return
    assert out is not None
    out = checked_file(out)
    phases = list(dict.fromkeys(part.strip() for part in phase.split(",")))
    if not set(phases) <= set(_PHASES):
        raise bad_option("phase", phase, "prefill, decode or prefill,decode")
    if dtype is not None and dtype not in FLOATS:
        raise bad_option("dtype", dtype, ", ".join(FLOATS))
    places = list(product(_numbers("batch", batch), _numbers("context", context), phases))
    document = _measured(model, places, points, rounds, layers, dtype, device)
    write_file(out, json.dumps(document, indent=1) + "\n")
    if json_output:
        emit(document)
    else:
        stdout.print(_timings_table(document))
        stderr.print(f"written to {out}: table {document['digest']}", soft_wrap=True, markup=False)


def _measured(
    model: Path,
    places: list[tuple[int, int, str]],
    points: int,
    rounds: int,
    layers: int,
    dtype: str | None,
    device: str | None,
) -> dict[str, Any]:
    from allocator.profiling.timing.latency_table import measured_table

    setup = _setup(model, dtype, device, layers=layers, points=points, rounds=rounds)
    setup.check(places)
    with counted(stderr, "latency", "turns") as on_turn:
        return measured_table(setup, places, on_turn)


def _judged(model: Path, file: Path, rounds: int, device: str | None) -> list[dict[str, Any]]:
    from allocator.plan.files.plan_file import read_plan
    from allocator.profiling.timing.latency_table import machine
    from allocator.profiling.timing.promises import judge_promises, promises_of

    plan = read_plan(file.read_bytes())
    _, table = promises_of(plan)
    setup = _setup(model, table.dtype, device, rounds=rounds)
    here, there = machine(setup.device), table.machine.model_dump()
    if differs := [
        f"{name} {there[name]} there, {here[name]} here" for name in here if here[name] != there[name]
    ]:
        text = escape("; ".join(differs))
        stderr.print(f"the plan's table was measured elsewhere: {text}", soft_wrap=True)
    with counted(stderr, "latency", "turns") as on_turn:
        return judge_promises(setup, plan, on_turn)


def _setup(model: Path, dtype: str | None, device: str | None, **options: Any) -> Setup:
    from allocator.stages.inputs import solver_errors
    from allocator.stages.timing import timed_model

    folder = folder_at(model)
    with solver_errors():
        tell_aside(folder)
    return timed_model(on_device(settings(), device), folder, dtype, **options)


def _show_verdicts(judged: list[dict[str, Any]]) -> None:
    """Limit, promise and clock of each budget, relative to the dense model; what to ask for where the limit was missed."""
    table = Table(title="the plan against the clock, relative to dense", title_justify="left")
    for title in ("budget", "limit", "promised", "measured (quartiles)", "kept"):
        table.add_column(title, overflow="fold")
    for row in judged:
        low, high = row["quartiles"]
        table.add_row(
            escape(row["budget"]),
            f"{row['limit']:.2f}",
            f"{row['promised']:.2f}",
            f"{row['measured']:.2f} ({low:.2f} to {high:.2f})",
            "yes" if row["kept"] else "no",
        )
    stdout.print(table)
    for row in judged:
        if row["ask_for"]:
            stdout.print(f"instead of {escape(row['budget'])} ask for {row['ask_for']}", soft_wrap=True)


def _timings_table(document: dict[str, Any]) -> Table:
    """Dense and least times, and how far the steps are from whole models that they were not made of."""
    table = Table(title="one pass", title_justify="left")
    for title in ("batch", "context", "phase", "dense", "spread", "smallest ranks", "predicted / measured"):
        table.add_column(title, justify="right")
    for row in document["timings"]:
        checks = [f"{check['predicted_ns'] / check['measured_ns']:.2f}" for check in row["checks"]]
        table.add_row(
            *(str(row[name]) for name in ("batch", "context", "phase")),
            f"{row['dense_ns'] / 1e6:,.3f} ms",
            f"{row['dense_spread_ns'] / row['dense_ns']:.0%}",
            f"{row['constant_ns'] / 1e6:,.3f} ms",
            ", ".join(checks) or "-",
        )
    return table
