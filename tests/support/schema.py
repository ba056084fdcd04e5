"""What a migration does to a schema, seen from code that does not know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, inspect


@dataclass(frozen=True)
class Shape:
    """What code relies on."""

    columns: dict[tuple[str, str], tuple[str, bool, bool]] = field(default_factory=dict)
    """(table, column) -> type, whether it may be NULL, whether the database fills it."""
    rules: frozenset[tuple[str, str]] = frozenset()
    """(table, what its rows must keep to)."""


def shape(connection: Connection) -> Shape:
    """Of the database as it is."""
    found, columns, rules = inspect(connection), {}, set()
    for table in found.get_table_names():
        for column in found.get_columns(table):
            filled = column["default"] is not None or column.get("autoincrement") is True
            columns[table, column["name"]] = (str(column["type"]), bool(column["nullable"]), filled)
        rules |= {(table, str(rule)) for rule in _rules(found, table)}
    return Shape(columns, frozenset(rules))


def _rules(found: Any, table: str) -> list[tuple[Any, ...]]:
    unique = {tuple(each["column_names"]) for each in found.get_unique_constraints(table)}
    unique |= {tuple(each["column_names"]) for each in found.get_indexes(table) if each["unique"]}
    foreign = [
        (tuple(key["constrained_columns"]), key["referred_table"], tuple(key["referred_columns"]))
        for key in found.get_foreign_keys(table)
    ]
    checks = [(each["sqltext"],) for each in found.get_check_constraints(table)]
    return [("unique", *sorted(unique)), ("foreign", *sorted(foreign)), ("check", *sorted(checks))]


def breaks(before: Shape, after: Shape) -> list[str]:
    """What code made for ``before`` would stumble over in ``after``; empty where the migration only added."""
    tables = {table for table, _ in before.columns}
    found = [
        f"{table}.{column}: was {was}, is {after.columns.get((table, column), 'gone')}"
        for (table, column), was in before.columns.items()
        if after.columns.get((table, column)) != was
    ]
    found += [
        f"{table}.{column}: new, and an insert that does not name it fails"
        for (table, column), (_type, nullable, filled) in after.columns.items()
        if table in tables and (table, column) not in before.columns and not nullable and not filled
    ]
    return found + [
        f"{table}: {rule} is new or another" for table, rule in after.rules - before.rules if table in tables
    ]
