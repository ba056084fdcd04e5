"""``rankalloc profiles``: ask stored profiles, here or of a service, draw them, hand them on. No model is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from allocator.base.errors import InvalidInput
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.params import BlockParams
from allocator.plan.model.geometry import COMPONENTS
from api.cli.app import app
from api.cli.connect import Server, source_of
from api.cli.console import answer, bad_option, emit, stdout
from api.cli.delivery import checked_file, write_file
from api.cli.local import local_team
from api.cli.options import Json
from api.cli.sources import as_json, profile_of, rows

_MOST_ROWS = 5

profiles = typer.Typer(help="Stored profiles: query, draw, export, import.", no_args_is_help=True)
app.add_typer(profiles, name="profiles")

Key = Annotated[
    str, typer.Argument(help="A profile's key, or its first characters, at least 6.", show_default=False)
]
LayerOption = Annotated[int | None, typer.Option(help="This layer alone.", show_default=False)]


def stored_profile(key: str, server: str | None) -> Profile:
    """A profile by its key or the key's first characters. Raises NotFound and InvalidInput."""
    with source_of(server) as source:
        return profile_of(source, key)


RemoveOption = Annotated[float, typer.Option(help="The fraction of a component's own rank that goes.")]


@profiles.command("list")
def list_profiles(
    model: Annotated[str | None, typer.Option(help="As listed, such as local:pylm-llama.")] = None,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """All stored profiles, newest first."""
    from api.cli.profile_tables import profiles_table

    with source_of(server) as source:
        documents = rows(source.profiles.find(model=model))
    answer({"items": documents}, profiles_table(documents), json_output=json_output)


@profiles.command()
def show(key: Key, server: Server = None, json_output: Json = False) -> None:
    """A profile's facts, its cost, interpolation errors of its curves, and its most sensitive components."""
    from allocator.plan.queries import interpolation_errors, most_sensitive, removals
    from api.cli.profile_tables import errors_table, facts, removals_table

    profile = stored_profile(key, server)
    largest = most_sensitive(removals(profile)[0])[:_MOST_ROWS]
    if json_output:
        document = {n: value for n, value in profile.document.items() if n not in ("curves", "identity")}
        document["repairs"] = sum(len(curve.repairs) for curve in profile.curves)
        document["interpolation_errors"] = {
            component: error.document for component, error in interpolation_errors(profile).items()
        }
        emit({**document, "most_sensitive": [removal.document for removal in largest]})
        return
    stdout.print(facts(profile))
    stdout.print(errors_table(profile))
    stdout.print(removals_table("most sensitive: 10 % of a component's rank removed alone", largest))


@profiles.command()
def curves(
    key: Key,
    layer: LayerOption = None,
    component: Annotated[str | None, typer.Option(help="qk, ov or mlp alone.", show_default=False)] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Every rank of every curve as CSV.")] = False,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Measured points as a table; every rank with --csv or --json."""
    from allocator.plan.queries import curves_csv, select_curves
    from api.cli.profile_tables import points_table

    profile = stored_profile(key, server)
    layers = profile.model.geometry.layers
    if layer is not None and not 0 <= layer < layers:
        raise bad_option("layer", str(layer), f"0 to {layers - 1}")
    if component not in (None, *COMPONENTS):
        raise bad_option("component", str(component), " or ".join(COMPONENTS))
    selected = select_curves(profile, layer=layer, component=component)
    if json_output:
        emit({"profile_key": profile.key, "curves": [curve.document for curve in selected]})
    elif csv:
        sys.stdout.write(curves_csv(selected))
    else:
        stdout.print(points_table(selected))


@profiles.command()
def sensitive(
    key: Key,
    remove: RemoveOption = 0.1,
    metric: Annotated[
        str, typer.Option(help="As in a budget: block_params, memory@batch=8,context=4096.")
    ] = BlockParams.name,
    limit: Annotated[int, typer.Option(min=1, help="Length of each list.")] = 10,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Where removing a fraction of a component's rank hurts most and least, and the least loss for the whole model."""
    from allocator.plan.queries import sensitivity
    from api.cli.profile_tables import removals_table

    losses = sensitivity(stored_profile(key, server), remove=remove, metric=metric, limit=limit)
    if json_output:
        emit(losses.document)
        return
    share = f"{100 * remove:g} %"
    for cuts, title in ((losses.most_sensitive, "most sensitive"), (losses.hurts_least, "hurts least")):
        stdout.print(
            removals_table(f"{title}: {share} of a component's rank removed alone", cuts, losses.metric)
        )
    if losses.out_of_reach:
        stdout.print(f"{len(losses.out_of_reach)} components cannot lose {share} of their rank.")
    whole_model = losses.whole_model
    if whole_model is None:
        stdout.print(f"No ranks remove {share} of the model's {losses.metric}.")
    else:
        stdout.print(
            f"{share} of the model's {losses.metric} at least: {whole_model.before:,} to {whole_model.after:,}"
            f" {whole_model.unit} for {whole_model.loss_nats:.3g} nats/token (--budget {whole_model.budget})",
            soft_wrap=True,
        )


@profiles.command()
def plot(
    key: Key,
    out: Annotated[Path, typer.Option(help="Folder to write into.", show_default=False)],
    scale: Annotated[
        str | None, typer.Option(help="log or linear alone. Default: both.", show_default=False)
    ] = None,
    remove: RemoveOption = 0.2,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Write heatmap.svg, curves-log.svg and curves-linear.svg."""
    from allocator.report.figures.profile import SCALES, curves, heatmap

    if scale not in (None, *SCALES):
        raise bad_option("scale", str(scale), " or ".join(SCALES))
    profile = stored_profile(key, server)
    figures = {"heatmap.svg": heatmap(profile, remove=remove)}
    for drawn_scale in SCALES if scale is None else (scale,):
        figures[f"curves-{drawn_scale}.svg"] = curves(profile, scale=drawn_scale)
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.write(out / name)
    answer(
        {"files": [str(out / name) for name in figures]},
        f"written to {out}: {', '.join(figures)}",
        json_output=json_output,
    )


@profiles.command()
def export(
    key: Key,
    out: Annotated[Path, typer.Option(help="File to write; must not exist yet.", show_default=False)],
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Write the profile as one small file that a colleague can import."""
    from allocator.plan.files.portable import export_profile

    out = checked_file(out)
    data = export_profile(stored_profile(key, server))
    write_file(out, data)
    answer(
        {"file": str(out), "bytes": len(data)},
        f"written to {out}: {len(data):,} bytes",
        json_output=json_output,
    )


@profiles.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that export wrote.", show_default=False)],
    trust: Annotated[
        bool, typer.Option("--trust", help="Let jobs reuse it as if it had been measured here.")
    ] = False,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Take in a profile from elsewhere, under a key of its own unless it is trusted. Repeating it is harmless."""
    from allocator.plan.files.portable import MAX_FILE_BYTES

    if trust and server:
        raise InvalidInput("--trust: a service takes nobody's word; import it on its own machine")
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    if trust:
        with local_team() as team:
            imported = team.profiles.import_(data, trust=True)
    else:
        with source_of(server) as source:
            imported = as_json(source.profiles.import_(data))
    if json_output:
        emit(imported)
        return
    stdout.print(
        f"{'stored' if imported['stored'] else 'was there already'}: profile {imported['key']}",
        soft_wrap=True,
    )
    if not trust:
        stdout.print(
            "Plans can be made from it; jobs measure for themselves unless it is imported with --trust."
        )
