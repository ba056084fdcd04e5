"""The Typer application that every file of commands registers with."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="rankalloc",
    help="Decide where a Transformer can lose rank: profile once, plan in milliseconds, apply exactly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
db = typer.Typer(help="The store's schema.", no_args_is_help=True)
app.add_typer(db, name="db")
