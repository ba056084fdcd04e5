"""``make faults``: every fault, repeatedly, at random times; a table; exit status 1 where anything was violated."""

from __future__ import annotations

import argparse
import random
import sys

from rich.console import Console
from rich.table import Table

from tests.faults import catalogue
from tests.faults.registry import FAULTS, Round, Servers, play_all
from tests.support import stages
from tests.support.pages import fill
from tests.support.processes import ROOT

COLUMNS = ("rounds", "jobs", "lost units", "redone units", "violations")


def main() -> int:
    options = _options()
    stages.install()
    console = Console(highlight=False, width=132)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    console.print(f"seed {seed}, {options.database}, {options.broker}, {options.rounds} rounds of each fault")
    servers, violated = Servers(), False
    rounds = [
        Round(name, seed + number, options.database, options.broker)
        for name in options.only or catalogue.NAMES
        for number in range(options.rounds)
    ]
    totals = {each.name: [0] * len(COLUMNS) for each in rounds}
    try:
        for each, found in play_all(rounds, servers):
            for violation in found.violations:
                console.print(f"{each.name}, seed {each.seed}: {violation}", markup=False)
            counts = (1, found.jobs, found.lost_units, found.redone_units, len(found.violations[:1]))
            totals[each.name] = [sum(pair) for pair in zip(totals[each.name], counts, strict=True)]
            console.print(f"{each.name}, seed {each.seed}: {counts[-1]} violations")
            violated |= bool(found.violations) or found.lost_units > 0
    finally:
        servers.remove()
    console.print(_table(totals))
    if options.fill:
        place = f"faults-{options.database}-{options.broker}"
        fill(ROOT / "docs" / "explanation" / "guarantees.md", {place: _markdown(totals)})
    return int(violated)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each fault (5)")
    parser.add_argument("--seed", type=int, help="of the random times; printed where none is given")
    parser.add_argument(
        "--only", action="append", choices=catalogue.NAMES, help="this fault (may be repeated)"
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--broker", choices=("files", "redis"), default="files")
    parser.add_argument(
        "--fill", action="store_true", help="write the table into docs/explanation/guarantees.md, too"
    )
    return parser.parse_args()


def _table(rows: dict[str, list[int]]) -> Table:
    table = Table("fault", title="Faults")
    table.add_column("what happens", max_width=48)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, counts in rows.items():
        table.add_row(name, FAULTS[name].what, *map(str, counts))
    return table


def _markdown(rows: dict[str, list[int]]) -> str:
    lines = [f"| fault | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| `{name}` | {' | '.join(map(str, counts))} |" for name, counts in rows.items()]
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    return "\n".join([*lines, f"| all | {' | '.join(map(str, total))} |"])


if __name__ == "__main__":
    sys.exit(main())
