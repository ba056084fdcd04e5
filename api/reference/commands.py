"""The command line: every command with its options, and the options that several commands share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import typer

from api.cli.main import app
from api.reference.markdown import cell, table

_MOST_NAMED = 10
"""Commands that take an option are counted, not named, where they are more."""


def commands() -> Iterator[tuple[str, Any]]:
    """Name, with those of its groups, and command, in the order of the help; click's, as typer makes them."""
    yield from _below(typer.main.get_command(app), ())


def _below(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def commands_table() -> str:
    """Every command: its arguments and options, what it does."""
    rows = ((f"`{cell(_usage(name, command))}`", cell(command.help)) for name, command in commands())
    return table(("command", "what it does"), rows)


def options_table() -> str:
    """Every option that several commands take in the same meaning: its value, these commands, what it says."""
    takers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, command in commands():
        for option in _options(command):
            takers[_synopsis(option), option.help].append(name)
    rows = (
        (f"`{cell(synopsis)}`", _named(names), cell(text.replace(r"\[", "[")))
        for (synopsis, text), names in takers.items()
        if len(names) > 1
    )
    return table(("option", "of", "meaning"), rows)


def _named(names: list[str]) -> str:
    return f"{len(names)} commands" if len(names) > _MOST_NAMED else ", ".join(f"`{name}`" for name in names)


def _usage(name: str, command: Any) -> str:
    arguments = (
        param.metavar or param.name.upper() for param in command.params if param.param_type_name == "argument"
    )
    options = sorted(_options(command), key=lambda option: not option.required)
    words = (_synopsis(option) if option.required else f"[{_synopsis(option)}]" for option in options)
    return " ".join(("rankalloc", name, *arguments, *words))


def _options(command: Any) -> list[Any]:
    """Options of its own: ``--help`` is every command's."""
    return [param for param in command.params if param.param_type_name == "option" and not param.hidden]


def _synopsis(option: Any) -> str:
    """An option as it is typed: a flag, or a name with the default or a word in capitals."""
    if option.is_flag:
        return str(option.secondary_opts[0] if option.default and option.secondary_opts else option.opts[0])
    (name,) = option.opts
    if option.default not in (None, [], ()) and not option.required:
        return f"{name} {option.default}"
    own_word = (
        option.metavar and "|" not in option.metavar
    )  # a list of all choices would hide the other options
    word = option.metavar if own_word else name.rpartition("-")[2].upper()
    return f"{name} {word}" + (" ..." if option.multiple else "")
