"""``rankalloc jobs``: what a service is asked to do, and what becomes of it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from allocator.stages.request import CHOICES, Request
from api.cli.app import app
from api.cli.connect import Server, service_of, source_of, wait
from api.cli.console import answer, emit, stderr, stdout
from api.cli.options import (
    Align,
    EvaluationLength,
    Json,
    MinRank,
    Pin,
    Quiet,
    Samples,
    SequenceLength,
    Target,
    TextColumn,
    Tie,
    request_fields,
)

if TYPE_CHECKING:
    from allocator.jobs.document import EventDocument, JobDocument
    from api.client import Client

jobs = typer.Typer(help="Jobs of a service: submit, follow, cancel, download.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")

JobId = Annotated[str, typer.Argument(help="A job's id.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until it is over; exit status 3 or 4 if it fails.")]
Out = Annotated[
    Path | None,
    typer.Option(help="With --wait: download its files into this folder afterwards.", show_default=False),
]


def _text(help: str) -> Any:
    return typer.Option(help=help, show_default=False)


def _of_field(name: str) -> str:
    """A request field's description with its choices."""
    text = escape((Request.model_fields[name].description or "").replace("`", ""))
    return f"{text} One of {', '.join(CHOICES[name])}." if name in CHOICES else text


def _field(name: str) -> Any:
    return _text(_of_field(name))


def _several(name: str) -> Any:
    return _text(f"{_of_field(name)} Or several, separated by commas.")


@jobs.command()
def submit(
    kind: Annotated[str, typer.Argument(help=_of_field("kind"), show_default=False)],
    model: Annotated[str, typer.Argument(help=_of_field("model"), show_default=False)],
    budget: Annotated[list[str], _text(f"{_of_field('budgets')} Repeat for several.")] = [],  # noqa: B006 - typer wants a list
    plan: Annotated[str | None, _field("plan")] = None,
    profile: Annotated[str | None, _field("profile")] = None,
    around: Annotated[str | None, _field("around")] = None,
    calibration: Annotated[str | None, _field("calibration")] = None,
    evaluation: Annotated[str | None, _field("evaluation")] = None,
    text_column: TextColumn = None,
    solver: Annotated[str | None, _field("solver")] = None,
    allocation: Annotated[str | None, _field("allocation")] = None,
    export: Annotated[str | None, _several("export")] = None,
    effort: Annotated[str | None, _field("effort")] = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    evaluation_length: EvaluationLength = None,
    align: Align = [],  # noqa: B006
    min_rank: MinRank = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
    tie: Tie = [],  # noqa: B006
    target: Target = None,
    latency_table: Annotated[str | None, _field("latency_table")] = None,
    bits: Annotated[str | None, _several("bits")] = None,
    refine: Annotated[int | None, _field("refine")] = None,
    baselines: Annotated[str | None, _field("baselines")] = None,
    heal: Annotated[int | None, _field("heal")] = None,
    device: Annotated[str | None, _field("device")] = None,
    idempotency_key: Annotated[
        str | None, _text("Any text of your own; the same text is the same job.")
    ] = None,
    stay: Wait = False,
    out: Out = None,
    server: Server = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Submit a job. With --wait its progress is shown, and its files are fetched with --out."""
    request = {name: value for name, value in request_fields(locals()).items() if value is not None}
    with service_of(server) as client:
        job = client.jobs.submit(**request, idempotency_key=idempotency_key)
        _to_its_end(client, job, stay=stay, out=out, json_output=json_output)


def _to_its_end(client: Client, job: JobDocument, *, stay: bool, out: Path | None, json_output: bool) -> None:
    """Show a job that was just made, and stay with it if that was asked for."""
    from api.cli.job_tables import job_facts

    if not json_output:
        stderr.print(f"job {job.id} is {job.state}", soft_wrap=True)
    if stay or out is not None:
        job = wait(client, job.id)
        if out is not None:
            files = client.jobs.download(job.id, out)
            if not json_output:
                stderr.print(f"written to {out}: {len(files)} files", soft_wrap=True, markup=False)
    answer(job.document, job_facts(job), json_output=json_output)


@jobs.command("list")
def list_jobs(
    state: Annotated[str | None, _text("queued, running, succeeded, failed, ...")] = None,
    model: Annotated[str | None, _text("As listed, such as local:pylm-llama.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Jobs, newest first."""
    from api.cli.job_tables import jobs_table

    with source_of(server) as source:
        shown = list(islice(source.jobs.find(state=state, model=model), limit))
    items = [job.document for job in shown]
    answer({"items": items}, jobs_table(shown), json_output=json_output)


@jobs.command()
def show(job: JobId, server: Server = None, json_output: Json = False) -> None:
    """A job's state, stage, progress, what it waits for, its plan, why it failed."""
    from api.cli.job_tables import job_facts

    with source_of(server) as source:
        shown = source.jobs.get(job)
    answer(shown.document, job_facts(shown), json_output=json_output)


@jobs.command()
def events(
    job: JobId,
    after: Annotated[int, typer.Option(min=0, help="Only events numbered above this.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until the job is over.")] = False,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """A job's events, in order."""
    from api.cli.connect import follow as followed
    from api.cli.job_tables import event_line

    received: list[EventDocument] = []

    def tell(new: list[EventDocument]) -> None:
        received.extend(new)
        if not json_output:
            for event in new:
                stdout.print(event_line(event), soft_wrap=True)

    with source_of(server) as source:
        if follow:
            followed(source, job, lambda _job, new: tell(new), after=after)
        else:
            tell(source.jobs.events(job, after=after))
    if json_output:
        emit({"items": [event.document for event in received]})


@jobs.command()
def cancel(job: JobId, server: Server = None, json_output: Json = False) -> None:
    """Ask for a job's end. Repeating it is harmless."""
    with source_of(server) as source:
        cancelled = source.jobs.cancel(job)
    answer(cancelled.document, f"job {cancelled.id} is {cancelled.state}", json_output=json_output)


@jobs.command()
def retry(
    job: JobId,
    stay: Wait = False,
    out: Out = None,
    server: Server = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Do a failed, crashed or cancelled job again, as a new job that repeats nothing it finds measured."""
    with service_of(server) as client:
        _to_its_end(client, client.jobs.retry(job), stay=stay, out=out, json_output=json_output)


@jobs.command()
def download(
    job: JobId,
    out: Annotated[Path, typer.Option(help="Folder to write into.", show_default=False)],
    server: Server = None,
    json_output: Json = False,
) -> None:
    """All files of a job; what is there already is kept, what was interrupted goes on, every file is checked by its hash."""
    with source_of(server) as source:
        files = source.jobs.download(job, out)
    answer(
        {"files": [str(path) for path in files]},
        f"written to {out}: {len(files)} files",
        json_output=json_output,
    )
