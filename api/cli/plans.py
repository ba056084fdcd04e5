"""``rankalloc plans``: stored plans, found, compared, named and talked about."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allocator.base.errors import InvalidInput, PreconditionFailed, PreconditionRequired
from allocator.plan.documents.plan import Plan
from api.cli.app import app
from api.cli.connect import Server, source_of
from api.cli.console import answer, emit, stdout
from api.cli.options import Json
from api.cli.sources import as_json, rows

plans = typer.Typer(help="Stored plans: find, compare, name, talk about.", no_args_is_help=True)
alias = typer.Typer(
    help="Names for plans, moved under a version so that no move is lost.", no_args_is_help=True
)
plans.add_typer(alias, name="alias")
app.add_typer(plans, name="plans")

PlanName = Annotated[
    str,
    typer.Argument(help="A digest, its first characters (at least 6) or alias:<name>.", show_default=False),
]
Name = Annotated[str, typer.Argument(help="The alias, such as prod.", show_default=False)]
Version = Annotated[
    int, typer.Option(min=1, help="The version you have seen (alias show).", show_default=False)
]


def _filter(help: str) -> Any:
    return typer.Option(help=help, show_default=False)


@plans.command("list")
def list_plans(
    model: Annotated[str | None, _filter("As listed, such as local:pylm-llama.")] = None,
    weights: Annotated[str | None, _filter("sha256 of the model's weights.")] = None,
    profile: Annotated[str | None, _filter("Key of the profile they were made from.")] = None,
    metric: Annotated[str | None, _filter("With a budget on it, such as kv_bytes_per_token.")] = None,
    min_limit: Annotated[int | None, _filter("Least limit of that budget.")] = None,
    max_limit: Annotated[int | None, _filter("Largest limit of that budget.")] = None,
    min_loss: Annotated[float | None, _filter("Least predicted loss, nats/token.")] = None,
    max_loss: Annotated[float | None, _filter("Largest predicted loss, nats/token.")] = None,
    label: Annotated[str | None, _filter("With this label.")] = None,
    alias: Annotated[str | None, _filter("What this alias points at.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Plans that meet every condition, newest first."""
    from api.cli.plan_tables import plans_table

    query: dict[str, Any] = {
        "model": model,
        "weights_sha256": weights,
        "profile_key": profile,
        "metric": metric,
    }
    query |= {"min_limit": min_limit, "max_limit": max_limit, "label": label, "alias": alias}
    query |= {"min_loss_nats": min_loss, "max_loss_nats": max_loss}
    with source_of(server) as source:
        summaries = rows(source.plans.find(**query), limit)
    answer({"items": summaries}, plans_table(summaries), json_output=json_output)


@plans.command()
def show(plan: PlanName, server: Server = None, json_output: Json = False) -> None:
    """Budgets, predicted losses and ranks, and what people wrote beside the plan. --json: the plan alone."""
    from api.cli.plan_tables import notes_text, plan_table

    with source_of(server) as source:
        document = source.plans.get(plan)
        if json_output:
            emit(document)
            return
        stored = Plan.stored(document)
        notes = as_json(source.plans.notes(stored.digest))
    stdout.print(f"plan {stored.digest}")
    stdout.print(plan_table(stored))
    for line in notes_text(notes):
        stdout.print(line, soft_wrap=True)


@plans.command()
def diff(
    a: PlanName,
    b: PlanName,
    batch: Annotated[int | None, _filter("Sequences, for the cache in total.")] = None,
    context: Annotated[int | None, _filter("Tokens of each, for the cache in total.")] = None,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Changes from plan A to plan B, component by component, in predicted loss, cache and parameters."""
    with source_of(server) as source:
        difference = source.plans.diff(a, b, batch=batch, context=context)
    if json_output:
        emit(difference.document)
        return
    for change in difference.changes:
        stdout.print(change.text, soft_wrap=True)
    stdout.print(difference.text, soft_wrap=True)
    if difference.losses_note:
        stdout.print(f"losses of components are unknown: {difference.losses_note}", soft_wrap=True)


@plans.command()
def lineage(plan: PlanName, server: Server = None, json_output: Json = False) -> None:
    """The profile and plan that it comes from, jobs that made and applied it, the files they wrote, what they measured."""
    from api.cli.plan_tables import lineage_text

    with source_of(server) as source:
        family = as_json(source.plans.lineage(plan))
    if json_output:
        emit(family)
        return
    for line in lineage_text(family):
        stdout.print(line, soft_wrap=True)


@plans.command()
def comment(
    plan: PlanName,
    text: Annotated[str, typer.Argument(help="Up to 2000 characters.", show_default=False)],
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Say something about a plan."""
    with source_of(server) as source:
        note = as_json(source.plans.comment(plan, text))
    answer(note, "said", json_output=json_output)


@plans.command()
def label(
    plan: PlanName,
    label: Annotated[str, typer.Argument(help="Such as candidate.", show_default=False)],
    remove: Annotated[bool, typer.Option("--remove", help="Take it off.")] = False,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Put a label on a plan, or take it off. Repeating it is harmless."""
    with source_of(server) as source:
        if remove:
            source.plans.remove_label(plan, label)
        else:
            source.plans.add_label(plan, label)
        notes = as_json(source.plans.notes(plan))
    answer(
        notes,
        "labels: " + (", ".join(note["label"] for note in notes["labels"]) or "none"),
        json_output=json_output,
    )


def _tell(row: dict[str, Any], *, json_output: bool) -> None:
    answer(row, f"{row['name']} -> {row['digest']} (version {row['version']})", json_output=json_output)


@alias.command("list")
def list_aliases(server: Server = None, json_output: Json = False) -> None:
    """All aliases, newest name first."""
    with source_of(server) as source:
        aliases = rows(source.plans.aliases())
    if json_output:
        emit({"items": aliases})
    for row in [] if json_output else aliases:
        _tell(row, json_output=False)


@alias.command("show")
def show_alias(name: Name, server: Server = None, json_output: Json = False) -> None:
    """The plan that an alias points at, and its version."""
    with source_of(server) as source:
        _tell(as_json(source.plans.alias(name)), json_output=json_output)


@alias.command("history")
def history(name: Name, server: Server = None, json_output: Json = False) -> None:
    """Every change of an alias, newest first; also of one that was deleted."""
    from api.cli.plan_tables import history_table

    with source_of(server) as source:
        changes = rows(source.plans.alias_history(name))
    answer({"items": changes}, history_table(changes), json_output=json_output)


@alias.command("set")
def set_alias(
    name: Name,
    plan: PlanName,
    version: Annotated[
        int | None, _filter("The version you have seen (alias show); left out, the alias is made.")
    ] = None,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Make an alias, or move the version of it that you have seen."""
    try:
        with source_of(server) as source:
            _tell(as_json(source.plans.set_alias(name, plan, version=version)), json_output=json_output)
    except (PreconditionRequired, PreconditionFailed):
        # Without a version a service is asked for an alias that does not exist yet.
        if version is not None:
            raise
        raise InvalidInput(
            f"alias {name!r} exists; look at it (rankalloc plans alias show {name}) and move the version you see: --version N"
        ) from None


@alias.command("rollback")
def roll_back(
    name: Name,
    version: Version,
    to: Annotated[int | None, _filter("A version of its history. Default: what it was before.")] = None,
    server: Server = None,
    json_output: Json = False,
) -> None:
    """Point an alias at what it pointed at before, or in another version."""
    with source_of(server) as source:
        _tell(as_json(source.plans.roll_back(name, version=version, to=to)), json_output=json_output)


@alias.command("delete")
def delete_alias(name: Name, version: Version, server: Server = None, json_output: Json = False) -> None:
    """Forget where an alias points; its history and all plans stay."""
    with source_of(server) as source:
        source.plans.delete_alias(name, version=version)
    answer({"deleted": name}, f"deleted {name}; its history stays", json_output=json_output)
