"""``rankalloc evaluate``: a model or checkpoint on a text, and beside the dense model that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from allocator.base.errors import UnusableText
from api.cli.app import app
from api.cli.console import emit, on_device, settings, stderr, stdout
from api.cli.folders import folder_at, tell_aside
from api.cli.hub_texts import text_of
from api.cli.options import Device, EvaluationLength, Json, Quiet, TextColumn
from api.cli.progress import counted


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder: a checkpoint that rankalloc wrote, compact or padded, or any supported model.",
            show_default=False,
        ),
    ],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="UTF-8 text, .jsonl, .parquet, .gz, .zst, a folder of these, hf:owner/name[:config[:split]], wikitext2, c4"
            " or pile. Default: evaluation.txt of the dense model's folder, or of MODEL's."
        ),
    ] = None,
    text_column: TextColumn = None,
    dense: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The dense model: also the rise over it, and the KL to it.",
            show_default=False,
        ),
    ] = None,
    evaluation_length: EvaluationLength = None,
    device: Device = None,
    quiet: Quiet = False,
    json_output: Json = False,
) -> None:
    """Measure a checkpoint that you made or were given: perplexity, and what it lost against its dense model."""
    from allocator.profiling.evaluation import evaluate as measured
    from allocator.stages.inputs import set_up_torch, solver_errors

    configured = on_device(settings(), device)
    set_up_torch(configured)
    model, source = folder_at(model), dense and folder_at(dense)
    text, origin = text_of(evaluation or _own_text(model, source), "evaluation", column=text_column)
    with solver_errors():
        tell_aside(model, source)
    with counted(stderr, "evaluate", "batches") as on_batch, solver_errors():
        result = measured(
            model,
            text,
            configured,
            dense=source,
            evaluation_length=evaluation_length,
            column=text_column,
            on_batch=on_batch,
        )
    if origin is not None:
        result["evaluation"]["source"] = origin
    if json_output:
        emit(result)
        return
    stdout.print(_losses_table(result))
    read = result["evaluation"]
    where = f"{read['tokens']:,} tokens, in windows of {read['window_tokens']:,}"
    if read["documents"] > 1:
        where += f", of {read['documents']:,} {read['form']}"
    if read["note"]:
        stderr.print(f"{text.name}: {read['note']}", soft_wrap=True, markup=False)
    if "dense" in result:
        kl = f"{result['kl_nats']:.4f} ± {result['kl_stderr_nats']:.4f}"
        same = f"same next token at {result['top1_agreement']:.1%} of positions"
        stdout.print(f"KL to the dense model {kl} nats/token, {same}, on {where}")
    else:
        stdout.print(f"on {where}")


def _own_text(model: Path, dense: Path | None) -> Path:
    """The evaluation.txt beside the dense model, or else beside the checkpoint. Raises UnusableText."""
    folders = [folder for folder in (dense, model) if folder]
    for folder in folders:
        if (folder / "evaluation.txt").is_file():
            return folder / "evaluation.txt"
    from allocator.stages.folders import called

    named = " or ".join(map(called, folders))
    raise UnusableText(f"evaluation: no evaluation.txt in {named}; name a text with --evaluation")


def _losses_table(result: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("")
    for title in ("params", "KV bytes/token", "nats/token", "perplexity", "rise"):
        table.add_column(title, justify="right")
    for key in ("dense", "model"):
        if key in result:
            row = result[key]
            rise = f"{result['evaluation_rise_nats']:+.4f}" if key == "model" and "dense" in result else ""
            table.add_row(
                escape(row["name"]),
                f"{row['params']:,}",
                f"{row['kv_bytes_per_token']:,}",
                f"{row['evaluation_nll_nats']:.4f}",
                f"{row['evaluation_perplexity']:.2f}",
                rise,
            )
    return table
