"""The packages of the house: what imports what, and how many lines each has. ``python -m tests.support.house [FOLDER]`` prints
both for a checkout, as a picture (Mermaid) and a table.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("allocator", "solvers", "api")


class House:
    """A checkout's packages, those inside each one by one; files beside them count as their folder's."""

    def __init__(self, root: Path = ROOT) -> None:
        graph = grimp.build_graph(*PACKAGES, cache_dir=None)
        self.modules, self.lines = Counter[str](), Counter[str]()
        self.imports: dict[str, set[str]] = defaultdict(set)
        for module in graph.modules:
            box, file = self._box(root, module), root / Path(*module.split("."))
            source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
            self.modules[box] += 1
            self.lines[box] += len(source.read_text(encoding="utf-8").splitlines()) if source.exists() else 0
            others = (self._box(root, name) for name in graph.find_modules_directly_imported_by(module))
            self.imports[box] |= {other for other in others if other != box}

    @staticmethod
    def _box(root: Path, module: str) -> str:
        parts = module.split(".")
        if len(parts) == 1 or not (root / parts[0] / parts[1]).is_dir():
            return parts[0]
        return ".".join(parts[:2])

    def edges(self) -> list[tuple[str, str]]:
        """Who imports whom, without what follows from the others; all of it where imports go in a circle."""
        try:
            TopologicalSorter(self.imports).prepare()
        except CycleError:
            return sorted((box, other) for box, others in self.imports.items() for other in others)
        return sorted(
            (box, other)
            for box, others in self.imports.items()
            for other in others
            if not any(other in self._below(between) for between in others - {other})
        )

    def _below(self, box: str) -> set[str]:
        return self.imports[box].union(*(self._below(other) for other in self.imports[box]))

    def picture(self) -> str:
        """The packages and `edges` in Mermaid."""
        lines = [f'    {name.replace(".", "_")}["{name}"]' for name in sorted(self.modules)]
        lines += [f"    {a.replace('.', '_')} --> {b.replace('.', '_')}" for a, b in self.edges()]
        return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])

    def table(self) -> str:
        """Files and lines of every package, in Markdown."""
        rows = [
            f"| `{name}` | {self.modules[name]} | {self.lines[name]:,} |" for name in sorted(self.modules)
        ]
        total = f"| in all | {self.modules.total()} | {self.lines.total():,} |"
        return "\n".join(["| package | files | lines |", "|---|---:|---:|", *rows, total])


def main() -> None:
    """Print a checkout's picture and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="A checkout; default: this one.")
    folder = parser.parse_args().folder.resolve()
    sys.path.insert(0, str(folder))  # where the packages are looked for
    house = House(folder)
    print(house.picture(), house.table(), sep="\n\n")


if __name__ == "__main__":
    main()
