"""Every table of models that people know, one after the other: ``make real-all``, a night on two cores.

Each step is a command of its own that goes on where it was cut short and leaves rows which are there already alone, so the
whole does too. A step that fails is named at the end; the others run all the same. ``--list`` prints the commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.allocation import ROOT

_PARAMS = ("block_params=0.8", "block_params=0.9", "block_params=0.6", "block_params=0.7", "block_params=0.5")
_CACHE = ("kv_bytes_per_token=0.75", "kv_bytes_per_token=0.5")
_NEAREST = ("block_params=0.9",)
"""Where a peer is nearest: on as many tokens as our job was evaluated on."""
_WITH_NORMS = ("lems", "kfac_svd", "zs_svd", "svd_llm_w")
"""Methods that norms between projections and heads leave something to cut."""
_HEALED = ("block_params=0.8", "block_params=0.6")
_BOTH = "block_params=0.8 kv_bytes_per_token=0.5"


def _budgets(*budgets: str) -> list[str]:
    return [word for budget in budgets for word in ("--budget", budget)]


STEPS: tuple[tuple[str, ...], ...] = (
    ("benchmarks.real", "--model", "smollm2", "--keep", *_budgets(*_PARAMS, *_CACHE, _BOTH)),
    (
        *("benchmarks.real", "--model", "smollm2", "--solver", "a3+latent", "--refine", "0"),
        *_budgets(*_PARAMS, *_CACHE, _BOTH),
    ),
    ("benchmarks.real_heal", "--model", "smollm2", *_budgets(*_HEALED)),
    ("benchmarks.drift", "--model", "smollm2"),
    ("benchmarks.real_plans", "--model", "smollm2", "--cross"),
    ("benchmarks.real_peers", "--model", "smollm2"),
    (
        "benchmarks.real_peers",
        "--model",
        "smollm2",
        *_budgets(*_NEAREST),
        "--method",
        "lems",
        "--tokens",
        "39936",
    ),
    ("benchmarks.real", "--model", "gemma3", "--refine", "0", *_budgets(*_PARAMS[:3])),
    (
        *("benchmarks.real", "--model", "gemma3", "--solver", "a3+latent", "--refine", "0"),
        *_budgets(*_PARAMS[:2]),
    ),
    (
        *("benchmarks.real_peers", "--model", "gemma3", *_budgets(*_PARAMS[:2])),
        *(word for method in _WITH_NORMS for word in ("--method", method)),
    ),
    ("benchmarks.real_latents", "--model", "gemma3"),
    ("benchmarks.real_measured", "--model", "smollm2"),
    ("benchmarks.healing_step", "--fill"),
)
"""Arguments of ``python -m``, what people look at first first."""


def main(argv: list[str] | None = None) -> None:
    """Run what is not there yet; exit status 1 where a step failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_all", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    options = parser.parse_args(argv)
    failed = []
    for step in STEPS:
        shown = "python -m " + " ".join(f"'{word}'" if " " in word else word for word in step)
        sys.stdout.write(shown + "\n")
        sys.stdout.flush()
        if options.list:
            continue
        started = time.monotonic()
        status = subprocess.run([sys.executable, "-m", *step], cwd=ROOT, check=False).returncode
        sys.stdout.write(f"  exit {status} after {(time.monotonic() - started) / 60:.0f} min\n")
        if status:
            failed.append(shown)
    if failed:
        raise SystemExit("failed; the same command goes on from there:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
