"""The packages of the house: what imports what, and how many lines each has. ``python -m tests.support.house [FOLDER]`` prints
both for a checkout, as a picture (Mermaid) and a table; with ``--within PACKAGE`` for the folders of one package.
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
    """A checkout's packages, those inside each one by one; files beside them count as their folder's.

    Args:
        within: a package whose folders alone are looked at, without the files beside them.
    """

    def __init__(self, root: Path = ROOT, *, within: str = "") -> None:
        self._root, self._within = root, within
        graph = grimp.build_graph(*PACKAGES, cache_dir=None)
        self.modules, self.lines = Counter[str](), Counter[str]()
        self.imports: dict[str, set[str]] = defaultdict(set)
        for module in filter(self._inside, graph.modules):
            box, file = self._box(module), root / Path(*module.split("."))
            source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
            self.modules[box] += 1
            self.lines[box] += len(source.read_text(encoding="utf-8").splitlines()) if source.exists() else 0
            others = map(self._box, filter(self._inside, graph.find_modules_directly_imported_by(module)))
            self.imports[box] |= {other for other in others if other != box}

    def _inside(self, module: str) -> bool:
        return self._box(module).startswith(f"{self._within}." if self._within else "")

    def _box(self, module: str) -> str:
        depth = self._within.count(".") + 2 if self._within else 2
        parts = module.split(".")[:depth]
        if len(parts) < depth or not self._root.joinpath(*parts).is_dir():
            return ".".join(parts[: depth - 1])
        return ".".join(parts)

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
    parser.add_argument("--within", default="", help="A package whose folders alone are drawn.")
    options = parser.parse_args()
    folder = options.folder.resolve()
    sys.path.insert(0, str(folder))  # where the packages are looked for
    house = House(folder, within=options.within)
    print(house.picture(), house.table(), sep="\n\n")


if __name__ == "__main__":
    main()
