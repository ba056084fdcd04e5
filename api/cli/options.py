"""Options that several commands take, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from allocator.base.errors import InvalidInput
from allocator.methods.registry import METHODS
from allocator.plan.effort import EFFORTS
from allocator.plan.model.dtypes import WIDTHS
from allocator.plan.model.latency import LatencyTable
from allocator.plan.targets.registry import TARGETS
from allocator.profiling.windows import LEAST_SAMPLES, LEAST_WINDOW_TOKENS, MOST_SAMPLES, MOST_WINDOW_TOKENS
from allocator.stages.exports import EXPORTS
from allocator.stages.request import BASELINES, DEFAULT_EVALUATIONS, NUMBERS, Request
from allocator.stages.rules import check_request
from api.cli.console import bad_option, hush
from api.schemas.requests import NO_BITS

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, progress on standard error.")
]
Device = Annotated[
    str | None, typer.Option(help="cpu or cuda. Default: RANKALLOC_DEVICE, else cpu.", show_default=False)
]
Effort = Annotated[
    str | None,
    typer.Option(
        help=f"How a new profile is made: {', '.join(EFFORTS)}. Default: gradient, with bits or around a plan standard."
    ),
]
Solver = Annotated[str, typer.Option(help=f"{'; '.join(f'{m.name}: {m.help}' for m in METHODS.values())}.")]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="Text for moments and curves: UTF-8, .jsonl, .parquet, .gz, .zst, a folder of these,"
        " hf:owner/name[:config[:split]], wikitext2, c4 or pile. Default: calibration.txt of the model folder."
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
Target = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(TARGETS),
        help="The engine that will serve it: ranks that it can hold, its cache in all budgets. Default: transformers.",
        show_default=False,
    ),
]
Budget = Annotated[
    list[str],
    typer.Option(
        help=escape("metric=value[@option=value,...]; repeat for several at once."), show_default=False
    ),
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
Export = Annotated[
    str | None,
    typer.Option(
        help=f"Checkpoints, separated by commas: {'; '.join(f'{e.name} ({e.help})' for e in EXPORTS.values())}."
        " Default: compact and padded, or what the target loads.",
        show_default=False,
    ),
]
Heal = Annotated[
    int,
    typer.Option(
        metavar="STEPS", help="Distil the dense model into the cut one afterwards; 0: closed form only."
    ),
]
Baselines = Annotated[
    str, typer.Option(help="What the plan is measured beside: all, uniform (one ratio), or none.")
]
Bits = Annotated[
    str | None,
    typer.Option(
        metavar="8,4",
        help="Also measure quantized cuts: each component gets a rank and weight bits. Needs a budget on memory to plan.",
        show_default=False,
    ),
]
BitsOfProfile = Annotated[
    str | None,
    typer.Option(
        "--bits",
        metavar="8,4",
        help="Weight bits to be used, of those that the profile has measured; none: ranks alone. Default: all.",
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
ModelFolder = Annotated[Path, typer.Argument(help="A Hugging Face model folder.", show_default=False)]
Quiet = Annotated[
    bool,
    # Its work is done when it is read: the commands that take it need not look at it.
    typer.Option("--quiet", callback=hush, help="Nothing on standard error but errors."),
]


def constraints_of(
    align: list[str], min_rank: list[str], pin: list[str], tie: list[str], target: str | None
) -> dict[str, list[str]] | None:
    """The constraints of a request; None where there are none."""
    by_kind = {
        "align": align,
        "min_rank": min_rank,
        "pin": pin,
        "tie": tie,
        "target": [target] if target else [],
    }
    return {kind: texts for kind, texts in by_kind.items() if texts} or None


def parsed_exports(text: str | None) -> list[str] | None:
    """``compact,padded`` as a list."""
    return None if text is None else [part.strip() for part in text.split(",")]


def parsed_bits(text: str | None) -> list[int] | None:
    """``8,4`` as numbers, ``none`` as an empty list. Raises InvalidInput."""
    if text is None or text == NO_BITS:
        return None if text is None else []
    widths = {str(width): width for width in WIDTHS}
    parts = {part.strip() for part in text.split(",")}
    if not parts <= widths.keys():
        raise bad_option("bits", text, f"{', '.join(widths)} or both separated by a comma")
    return sorted((widths[part] for part in parts), reverse=True)


def request_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of a job's request in a command's arguments, its ``locals()``; those that were left out are None."""
    fields = {name: arguments[name] for name in Request.model_fields if name in arguments}
    for name, read in (("bits", parsed_bits), ("export", parsed_exports)):
        if name in fields:
            fields[name] = read(fields[name])
    if "budget" in arguments:
        fields["budgets"] = arguments["budget"]
    if "pin" in arguments:
        texts = (arguments[kind] for kind in ("align", "min_rank", "pin", "tie", "target"))
        fields["constraints"] = constraints_of(*texts)
    return fields


_USUAL: dict[str, Any] = {"bits": [], "heal": 0, "baselines": BASELINES[0]}
"""Defaults that are no part of a request: it is then the same as one made before there was a choice."""


def request_of(kind: str, options: dict[str, Any]) -> Request:
    """A job's request from a command's options, without those that were not given. Raises InvalidInput."""
    fields = {
        name: value for name, value in options.items() if value is not None and value != _USUAL.get(name)
    }
    try:
        request = Request.model_validate({"kind": kind, **fields})
    except ValidationError as error:
        raise _refused(error) from None
    check_request(request)
    return request


def _refused(error: ValidationError) -> InvalidInput:
    """The error of the first option whose value is none of its field's."""
    first = error.errors(include_url=False)[0]
    field, value = str(first["loc"][0]), str(first["input"])[:200]
    if first["type"] == "literal_error":
        return bad_option(field, value, first["ctx"]["expected"].replace("'", "").replace(", ", " or "))
    if field in NUMBERS:
        return bad_option(field, value, "a whole number from {} to {}".format(*NUMBERS[field]))
    return InvalidInput.of(field, value, first["msg"], f"{value!r}:", at=f"--{field.replace('_', '-')}")


def table_of_file(file: Path | None) -> LatencyTable | None:
    """The latency table in a file. Raises InvalidInput."""
    if file is None:
        return None
    from allocator.plan.files.latency_file import import_table

    return import_table(file.expanduser().read_bytes())
