"""The plan of the house: what import-linter's contracts do not say."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.mutants import SELECTIONS
from tests.support.house import PACKAGES, ROOT, House

MOST_LINES = 300
"""Of one file; what is longer holds two subjects."""


def test_no_circle_of_files() -> None:
    """Imports inside functions and those of types count too."""
    graph = grimp.build_graph(*PACKAGES)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_circle_of_packages_and_the_picture_of_them_is_true() -> None:
    house = House()
    TopologicalSorter(house.imports).prepare()  # raises CycleError
    assert house.picture() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_no_circle_of_the_planning_cores_folders_and_the_picture_of_them_is_true() -> None:
    house = House(within="allocator.plan")
    TopologicalSorter(house.imports).prepare()  # raises CycleError
    assert house.picture() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_package_is_on_a_floor() -> None:
    """Else import-linter asks nothing of it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    floors = {
        name.strip()
        for contract in contracts["contracts"]
        for layer in contract.get("layers", [])
        for name in layer.split("|")
    }
    modules = grimp.build_graph(*PACKAGES).modules
    assert {name for name in modules if name.count(".") == 1} - floors == set()


def _imports(folder: str) -> Iterator[tuple[str, str]]:
    """(file, module) of every import, those inside functions too, of a folder's files that may name tests or benchmarks."""
    for path in (ROOT / folder).rglob("*.py"):
        file, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        if "benchmarks" not in text and "tests." not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from ((file, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                yield from ((file, f"{node.module}.{name.name}") for name in node.names)


def test_tests_and_benchmarks_share_what_is_in_tests_support_alone() -> None:
    """``tests/benchmarks`` tests the benchmarks; nobody else needs them, so either side can be read by itself."""
    strangers = [
        (file, module)
        for file, module in _imports("tests")
        if module.startswith("benchmarks.") and not file.startswith("tests/benchmarks/")
    ]
    strangers += [
        (file, module)
        for file, module in _imports("benchmarks")
        if module.startswith("tests.") and not module.startswith("tests.support.")
    ]
    strangers += [
        (file, module)
        for file, module in _imports("tests/support")
        if module.startswith("tests.") and not module.startswith("tests.support.")
    ]
    strangers += [
        (file, module)
        for package in PACKAGES
        for file, module in _imports(package)
        if module.startswith(("tests.", "benchmarks."))
    ]
    assert strangers == []


def test_docs_have_lines_of_120_characters() -> None:
    """But for tables, code, and what benchmarks write."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    long = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"<!-- bench:.*?<!-- /bench -->|```.*?```", "", text, flags=re.DOTALL)
        lines = (line for line in prose.splitlines() if not line.startswith(("|", "    ")))
        long += [f"{page.relative_to(ROOT)}: {line}" for line in lines if len(line) > 120]
    assert long == []


def _files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def test_files_keep_to_one_subject() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _files()}
    # It travels with checkpoints as remote code, so it stays one file.
    del lines["solvers/modeling_rankalloc.py"]
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize(
    "package",
    [path for folder in PACKAGES for path in (ROOT / folder).iterdir() if path.is_dir()],
    ids=lambda path: path.name,
)
def test_a_package_says_what_it_is_for(package: Path) -> None:
    if list(package.glob("*.py")):
        assert (package / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_of_mutants_names_files_that_are_there(name: str) -> None:
    selection = SELECTIONS[name]
    assert all(list(ROOT.glob(pattern)) for pattern in selection.files)
    assert all((ROOT / test).is_file() for test in selection.tests)
