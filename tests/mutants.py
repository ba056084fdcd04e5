"""Which changes of the code does no test notice? ``python -m tests.mutants [NAME ...]``, or ``make mutants OF="NAME ..."``.

A name stands for some files and for the tests that answer for them. mutmut changes the functions of these files one by one,
runs the tests that reach each, and lists the changes that survive. It works on a copy in ``.mutants/NAME``; what it has judged
there it judges again where a function has changed, and everything where a test has (``rm -r .mutants`` forgets all).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".mutants"
_COPIED = ("allocator", "solvers", "api", "migrations", "tests", "docs", "README.md", "pyproject.toml")


@dataclass(frozen=True)
class Selection:
    """Files that are changed, and the tests that ought to notice."""

    files: tuple[str, ...]
    tests: tuple[str, ...]

    def options(self) -> str:
        """mutmut's section of a ``pyproject.toml``."""
        copied = [name for name in _COPIED if name not in ("allocator", "solvers")]
        options = {
            "source_paths": ["allocator", "solvers"],
            "only_mutate": list(self.files),
            "also_copy": copied,
            "pytest_add_cli_args_test_selection": list(self.tests),
            "pytest_add_cli_args": [
                "-p",
                "no:cacheprovider",
                "-p",
                "tests.support.unshrunk",
                "--timeout",
                "0",
            ],
        }
        return "\n[tool.mutmut]\n" + "".join(f"{name} = {value!r}\n" for name, value in options.items())


def _plan(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/allocator/test_{name}.py" for name in names)


SELECTIONS = {
    "metrics": Selection(("allocator/plan/metrics/*.py",), _plan("counts", "budgets", "costs")),
    "staircases": Selection(("allocator/plan/program/staircases.py",), _plan("staircases")),
    "bound": Selection(("allocator/plan/program/bound.py",), _plan("program", "enumeration")),
    "solve": Selection(
        tuple(f"allocator/plan/program/{name}.py" for name in ("solve", "enumeration", "rays")),
        _plan("program", "enumeration", "raw_scale"),
    ),
    "prices": Selection(("allocator/plan/prices.py", "allocator/plan/differences.py"), _plan("differences")),
    "problem": Selection(
        tuple(f"allocator/plan/program/{name}.py" for name in ("problem", "options", "feasibility", "highs")),
        _plan(
            "problem",
            "program",
            "enumeration",
            "highs",
            "bits",
            "raw_scale",
            "constraints",
            "costs",
            "latents",
        ),
    ),
    "planning": Selection(
        ("allocator/plan/planning.py", "allocator/plan/baselines.py"),
        _plan("planning", "plan_contents", "baselines", "bits"),
    ),
    "inverse": Selection(
        ("allocator/plan/inverse.py", "allocator/plan/ask/least.py"), _plan("least", "inverse")
    ),
    "queries": Selection(
        ("allocator/plan/queries.py", "allocator/plan/explain.py", "allocator/plan/frontier.py"),
        _plan("queries", "query_rules", "explain", "explanations", "frontier", "frontier_rules"),
    ),
    "refinement": Selection(
        ("allocator/plan/refinement.py", "allocator/plan/local_model.py"),
        _plan("local_model", "refinement_steps", "refinement"),
    ),
    "constraints": Selection(
        ("allocator/plan/ask/constraints.py",), _plan("constraints", "constraint_rules")
    ),
    "curves": Selection(
        ("allocator/plan/curves/*.py",),
        _plan("curves", "curve_rules", "gradient_curve_rules", "predicted", "gradients", "bits"),
    ),
    "targets": Selection(
        ("allocator/plan/targets/*.py",), _plan("target_rules", "targets", "llama_cpp_targets")
    ),
    "linalg": Selection(
        ("solvers/a3/linalg.py", "solvers/a3/qk.py", "solvers/a3/ov.py", "solvers/a3/mlp.py"),
        ("tests/solvers/test_literal.py", "tests/solvers/test_damping.py"),
    ),
    "refits": Selection(
        ("solvers/a3/qk_gains.py", "solvers/a3/ov_joint.py", "solvers/a3/mlp_elimination.py"),
        (
            "tests/solvers/test_a3_plus.py",
            "tests/solvers/test_softmax_metric.py",
            "tests/solvers/test_damping.py",
        ),
    ),
    "feedback": Selection(
        ("solvers/a3/feedback.py", "solvers/a3/ridge.py"),
        tuple(f"tests/solvers/test_{name}.py" for name in ("feedback", "feedback_runs", "ridge")),
    ),
    "moments": Selection(
        ("solvers/a3/moments.py", "solvers/a3/grams.py"),
        ("tests/solvers/test_moments.py", "tests/solvers/test_literal.py"),
    ),
    "latents": Selection(
        tuple(f"solvers/a3/{name}.py" for name in ("latent", "ov_latent", "queries", "effects")),
        ("tests/solvers/test_joint_values.py", "tests/solvers/test_latent_queries.py"),
    ),
    "surgery": Selection(
        ("solvers/model/surgery.py",), ("tests/solvers/test_surgery.py", "tests/solvers/test_open_model.py")
    ),
    "writing": Selection(
        ("solvers/checkpoints/writing.py",),
        (
            "tests/solvers/test_writing.py",
            "tests/solvers/test_companions.py",
            "tests/solvers/test_stored_types.py",
        ),
    ),
}


def laid_out(name: str) -> Path:
    """The folder of a selection, with the tracked files as they are now; those that did not change keep their times."""
    folder = HOME / name
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *_COPIED],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    wanted = [Path(file) for file in listed.stdout.decode().split("\0") if file and (ROOT / file).is_file()]
    tests_changed = False
    for file in wanted:
        source, target = ROOT / file, folder / file
        if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        tests_changed |= file.parts[0] == "tests"
    if tests_changed:  # mutmut would not ask new tests about what it has judged by the old ones
        shutil.rmtree(folder / "mutants", ignore_errors=True)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + SELECTIONS[name].options()
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def main() -> None:
    """Judge the selections one after the other. Some changes change nothing, so what survives is listed and no failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["staircases"], help=", ".join(SELECTIONS))
    parser.add_argument("--children", type=int, default=1, help="Processes that run tests at once.")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SELECTIONS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(SELECTIONS)}")
    for name in options.names:
        folder = laid_out(name)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
        run = [sys.executable, "-m", "mutmut", "run", "--max-children", str(options.children)]
        subprocess.run(run, cwd=folder, env=environment, check=True)
        results = [sys.executable, "-m", "mutmut", "results"]
        found = subprocess.run(
            results, cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
        lines = [line.strip() for line in found.stdout.splitlines() if line.strip()]
        print(
            f"\n{name}: {len(lines)} not killed (cd {folder.relative_to(ROOT)}; mutmut show NAME)",
            *lines,
            sep="\n  ",
        )


if __name__ == "__main__":
    main()
