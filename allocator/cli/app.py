"""Commands and what they share: settings, errors as one line, exit statuses.

0 done    2 bad usage or input    3 a budget that no ranks can meet    4 the job failed    130 interrupted
"""

from __future__ import annotations

import errno
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from allocator import errors, logs
from allocator.jobs.pipeline import DEFAULT_EVALUATIONS
from allocator.latency import LatencyTable
from allocator.options import MOST_STATES
from allocator.profiling.effort import DEFAULT_SOLVER
from allocator.profiling.windows import LEAST_SAMPLES, LEAST_WINDOW_TOKENS, MOST_SAMPLES, MOST_WINDOW_TOKENS
from allocator.settings import DEVICES, Settings

app = typer.Typer(
    name="rankalloc",
    help="Decide where a Transformer can lose rank: profile once, plan in milliseconds, apply exactly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
db = typer.Typer(help="The store's schema.", no_args_is_help=True)
app.add_typer(db, name="db")

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, progress on standard error.")
]
Device = Annotated[
    str | None, typer.Option(help="cpu or cuda. Default: RANKALLOC_DEVICE, else cpu.", show_default=False)
]
Effort = Annotated[
    str | None,
    typer.Option(
        help="How a new profile is made: gradient (default), or measured cut by cut: fast, standard or thorough."
    ),
]
Solver = Annotated[
    str, typer.Option(help="a3+: with refits and error feedback; a3: the paper's, in head space.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="Text for moments and curves: UTF-8, .jsonl, .parquet, .gz, .zst, or a folder of these."
        " Default: calibration.txt of the model folder."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where records of .jsonl and .parquet texts have their text. Default: text, else messages.",
        show_default=False,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=LEAST_SAMPLES,
        max=MOST_SAMPLES,
        help="Calibration windows that moments are taken over. Default: 49,152 tokens of them, on cuda at least 128.",
        show_default=False,
    ),
]
SequenceLength = Annotated[
    int | None,
    typer.Option(
        metavar="T",
        min=LEAST_WINDOW_TOKENS,
        max=MOST_WINDOW_TOKENS,
        help="Tokens of a calibration window, up to the model's context. Default: at most 256, on cuda 2048.",
        show_default=False,
    ),
]
EvaluationLength = Annotated[
    int | None,
    typer.Option(
        metavar="T",
        min=LEAST_WINDOW_TOKENS,
        max=MOST_WINDOW_TOKENS,
        help="Tokens of a window of the evaluation text, as --sequence-length, which it does not depend on.",
        show_default=False,
    ),
]
Align = Annotated[
    list[str],
    typer.Option(
        metavar="[COMPONENT=]N", help="Ranks are multiples of N, or the full rank.", show_default=False
    ),
]
MinRank = Annotated[
    list[str],
    typer.Option(
        metavar="[COMPONENT=]RANK",
        help="No rank below; with a decimal point a share of the full one.",
        show_default=False,
    ),
]
Pin = Annotated[
    list[str],
    typer.Option(
        metavar="LAYERS.COMPONENT=RANK",
        help="A fixed rank, or dense, in one layer (17), some (0-3) or all (*).",
        show_default=False,
    ),
]
Tie = Annotated[
    list[str],
    typer.Option(
        metavar="COMPONENT[:FIRST-LAST]", help="The same rank in all these layers.", show_default=False
    ),
]
Budget = Annotated[
    list[str],
    typer.Option(help="metric=value[@option=value,...]; repeat for several at once.", show_default=False),
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Where losses do not add up, spend up to N evaluations on better ranks; 0: the program's plan."
        f" Default: {DEFAULT_EVALUATIONS}, fewer for models of more than 8 layers, with --bits 0.",
        show_default=False,
    ),
]
Export = Annotated[str, typer.Option(help="compact, padded, or both separated by a comma.")]
Heal = Annotated[
    int,
    typer.Option(
        metavar="STEPS", help="Distil the dense model into the cut one afterwards; 0: closed form only."
    ),
]
Bits = Annotated[
    str | None,
    typer.Option(
        metavar="8,4",
        help="Also measure quantized cuts: each component gets a rank and weight bits. Needs a budget on memory to plan.",
        show_default=False,
    ),
]
LatencyFile = Annotated[
    Path | None,
    typer.Option(
        "--latency-table",
        metavar="FILE",
        help="What rankalloc latency wrote, for budgets on latency.",
        show_default=False,
    ),
]
ProgramSolver = Annotated[
    str, typer.Option(help="highs or cbc: who gets what our own bound and enumeration leave open.")
]
MostStates = Annotated[
    int, typer.Option(metavar="N", help="How much is enumerated before that solver is asked; 0: nothing.")
]
ModelFolder = Annotated[Path, typer.Argument(help="A Hugging Face model folder.", show_default=False)]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def _hush(quiet: bool) -> bool:
    """Keep everything but errors off standard error, or no longer."""
    stderr.quiet = quiet
    if logging.lastResort is not None:  # where logs go that nobody has configured
        logging.lastResort.setLevel(logging.ERROR if quiet else logging.WARNING)
    if quiet:
        warnings.simplefilter("ignore")
    return quiet


Quiet = Annotated[
    bool,
    # Its work is done when it is read: the commands that take it need not look at it.
    typer.Option("--quiet", callback=_hush, help="Nothing on standard error but errors."),
]


def settings() -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: an environment variable holds an impossible value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "RANKALLOC_" + "_".join(str(part) for part in first["loc"]).upper()
        raise errors.InvalidInput(f"{name}: {first['msg']}") from None


def bad_option(name: str, found: str, allowed: str) -> errors.InvalidInput:
    """The error of an option whose value is none of the allowed ones."""
    return errors.InvalidInput(
        f"--{name}: {found!r} is not {allowed}", fields=[errors.FieldError(name, found, allowed)]
    )


def constraints_of(
    align: list[str], min_rank: list[str], pin: list[str], tie: list[str]
) -> dict[str, list[str]] | None:
    """The constraints of a request; None where there are none."""
    given = {"align": align, "min_rank": min_rank, "pin": pin, "tie": tie}
    return {kind: texts for kind, texts in given.items() if texts} or None


def bits_of(text: str | None) -> list[int] | None:
    """``8,4`` as numbers, ``none`` as an empty list. Raises InvalidInput."""
    if text is None or text == "none":
        return None if text is None else []
    parts = [part.strip() for part in text.split(",")]
    if not all(part in ("8", "4") for part in parts):
        raise bad_option("bits", text, "8, 4 or both separated by a comma")
    return sorted({int(part) for part in parts}, reverse=True)


def table_of_file(file: Path | None) -> LatencyTable | None:
    """The latency table in a file. Raises InvalidInput."""
    if file is None:
        return None
    from allocator.profiling.latency_file import import_table

    return import_table(file.expanduser().read_bytes())


def on_device(configured: Settings, device: str | None) -> Settings:
    """The settings with the device that ``--device`` names, if it names one. Raises InvalidInput for another."""
    if device is None:
        return configured
    if device not in DEVICES:
        raise bad_option("device", device, " or ".join(DEVICES))
    return configured.model_copy(update={"device": device})


def emit(document: dict[str, Any]) -> None:
    """Write the command's one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


@app.command()
def demo(quiet: Quiet = False, json_output: Json = False) -> None:
    """The main job on the bundled trained models, through the real service."""
    from allocator.cli.demo import run

    document = run(settings(), tables=not json_output)
    if json_output:
        emit(document)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; loopback only while no token has been made.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    dispatch: Annotated[
        bool,
        typer.Option(help="Whether this process also dispatches, or leaves that to rankalloc dispatcher."),
    ] = True,
    json_output: Json = False,
) -> None:
    """The service: REST API, dispatcher and, with embedded defaults, one worker process."""
    from api.serve import run

    def ready(url: str) -> None:
        if json_output:
            emit({"url": url})
        else:
            sys.stdout.write(f"rankalloc is ready at {url} (API description: {url}/openapi.json)\n")
        sys.stdout.flush()

    configured = settings()
    logs.configure(configured, level="warning")
    run(configured, host, port, ready, dispatch=dispatch)


@app.command()
def dispatcher() -> None:
    """What publishes messages and finds lost work, apart from the API (serve --no-dispatch)."""
    from allocator.jobs.dispatcher import run

    configured = settings()
    logs.configure(configured, level="info")
    run(configured)


@app.command()
def worker() -> None:
    """A worker process for the configured broker and database."""
    from allocator.jobs.worker import limit_threads, run

    configured = settings()
    limit_threads(configured)
    run(configured)


@db.command("upgrade")
def db_upgrade(json_output: Json = False) -> None:
    """Bring the store's schema to this version's revision. Repeating it is harmless."""
    from allocator.store import Store

    revision = Store.upgrade(settings())
    if json_output:
        emit({"revision": revision})
    else:
        sys.stdout.write(f"the schema is at revision {revision}\n")


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
    solver: Solver = DEFAULT_SOLVER,
    allocation: Annotated[str, typer.Option(help="ilp: mixed ranks; uniform: one ratio everywhere.")] = "ilp",
    export: Export = "compact,padded",
    effort: Effort = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    evaluation_length: EvaluationLength = None,
    align: Align = [],  # noqa: B006 - typer wants a list
    min_rank: MinRank = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
    tie: Tie = [],  # noqa: B006
    latency_table: LatencyFile = None,
    program_solver: ProgramSolver = "highs",
    most_states: MostStates = MOST_STATES,
    bits: Bits = None,
    refine: Evaluations = None,
    heal: Heal = 0,
    baselines: Annotated[
        str, typer.Option(help="What the plan is measured beside: all, uniform (one ratio), or none.")
    ] = "all",
    device: Device = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Compress a model under budgets on this machine, without a server; a second budget reuses the stored profile."""
    from allocator.cli.compress import run

    widths = bits_of(bits)
    request = {
        "model": model,
        "calibration": calibration,
        "evaluation": evaluation,
        "text_column": text_column,
        "budgets": budget,
        "solver": solver,
        "allocation": allocation,
        "export": [part.strip() for part in export.split(",")],
        "effort": effort,
        "samples": samples,
        "sequence_length": sequence_length,
        "evaluation_length": evaluation_length,
        "constraints": constraints_of(align, min_rank, pin, tie),
        "latency_table": latency_table,
        "program_solver": program_solver,
        "most_states": most_states,
        "bits": widths,
        "refine": refine,
        "baselines": baselines,
        "heal": heal,
    }
    report = run(on_device(settings(), device), request, out, table=not json_output)
    if json_output:
        emit(report)


from allocator.cli.frontier import frontier  # noqa: E402  # it needs what stands above

app.command()(frontier)


def main() -> None:
    """Run the command line; errors of ours are one line on standard error and an exit status."""
    try:
        try:
            app(standalone_mode=True)
        finally:
            _hush(False)  # errors are told in any case
    except errors.RankallocError as error:
        stderr.print(f"[red]error:[/red] {_escape(error.detail)}", soft_wrap=True)
        for field in error.fields:
            if field.allowed not in error.detail:
                stderr.print(f"  {_escape(field.field)}: {_escape(field.allowed)}", soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}:"
        told = f"{where} {error.strerror or error}"
        if error.errno in NO_ROOM:
            told += "; make room and run it again: what was measured and stored is reused"
        stderr.print(f"[red]error:[/red]{_escape(told)}", soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        stderr.print("interrupted")
        raise SystemExit(130) from None


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
