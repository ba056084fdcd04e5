"""Compact checkpoints of every kind that vLLM serves, written here and checked there.

    python -m tests.serving --python ENVIRONMENT/bin/python [FOLDER ...]

Without folders: the example model compressed by the command line, once with queries of latents, and random models with heads
of 32, 64 and 80 dimensions side by side, with biases, without rotary positions, with windows. ``make check-vllm`` makes the
environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored, write_compact
from solvers.model.surgery import open_model
from tests.support.models import SLIDING_QWEN, save, tiny, token_ids

EXAMPLE = Path(__file__).parents[2] / "examples" / "models" / "pylm-llama"
ROWS = ((20, 28, 21), (40, 12, 30), (16, 70, 40))
"""QK, OV and MLP ranks of three layers; on a CPU their caches have heads of 32, 64 and 80."""
NARROW = ((4, 4, 21), (10, 1, 30), (6, 10, 40))
"""For heads of 16."""
MODELS: dict[str, tuple[tuple[tuple[int, int, int], ...], dict[str, Any]]] = {
    "llama": (ROWS, {"head_dim": 96, "attention_bias": True}),
    "mistral": (ROWS, {"head_dim": 96}),
    "qwen2": (ROWS, {"hidden_size": 384, **SLIDING_QWEN}),
    "qwen3": (ROWS, {"head_dim": 96}),
    "gemma": (ROWS, {"head_dim": 96}),
    "gemma3_text": (ROWS, {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "phi3": (NARROW, {}),
    "gpt2": (NARROW, {}),
    "gpt_neox": (NARROW, {}),
    "opt": (NARROW, {"word_embed_proj_dim": 64}),
    "mixtral": (NARROW, {"head_dim": 16}),
}
"""All families that vLLM serves but Gemma 2, whose capped scores its kernel for CPUs computes less exactly than 1e-3."""


def write(family: str, folder: Path) -> Path:
    """A random model of the family, compressed; its compact folder, in ``folder``."""
    rows, options = MODELS[family]
    source, compact = folder / "source", folder / family
    save(tiny(family, **{"num_hidden_layers": len(rows), "hidden_size": 64} | options).float(), source)
    model = reading.load(reading.inspect(source))
    model.config._experts_implementation = "eager"
    opened = open_model(model)
    geometry = opened.family.geometry(model.config)
    whole = {"qk": geometry["head_dim"], "mlp": geometry["intermediate"]}
    layers = []
    for index, found in enumerate(moments.collect(opened, token_ids(4, 40))):
        row = dict(zip(("qk", "ov", "mlp"), rows[index], strict=True))
        row |= {component: whole[component] for component in opened.family.fixed}
        solved = solve_layer(opened.source[index], found).compressed(**row)
        layers.append(stored(solved, torch.float32))
    compact.mkdir()
    write_compact(opened, layers, compact, source=source, dtype=torch.float32)
    return compact


def compress(folder: Path, *more: str) -> Path:
    """The example model as a user compresses it; its compact folder, in ``folder``.

    Args:
        more: options of the command.
    """
    texts = {f"--{kind}": EXAMPLE / f"{kind}.txt" for kind in ("calibration", "evaluation")}
    given = [str(part) for pair in texts.items() for part in pair]
    command = [
        sys.executable,
        "-m",
        "api.cli",
        "compress",
        str(EXAMPLE),
        *given,
        *("--budget", "block_params=0.8"),
        *more,
        "--out",
        str(folder),
    ]
    subprocess.run(command, check=True)
    return folder / "compact"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", type=Path, required=True, help="the interpreter of an environment with vLLM"
    )
    parser.add_argument("folders", type=Path, nargs="*", help="compact checkpoints, instead of these")
    arguments = parser.parse_args()
    if not arguments.python.exists():
        print(f"{arguments.python} is not there: `make check-vllm` installs vLLM", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as made:
        folders = arguments.folders
        if not folders:
            latent = ("--solver", "a3+latent", "--target", "vllm-cpu", "--baselines", "none")
            folders = [
                compress(
                    Path(made) / "pylm-llama", "--budget", "kv_bytes_per_token=0.75", "--effort", "fast"
                ),
                compress(Path(made) / "pylm-llama-latent", *latent),
            ]
            for family in MODELS:
                (Path(made) / family).mkdir()
                folders.append(write(family, Path(made) / family))
        check = [str(arguments.python), str(Path(__file__).parent / "vllm_serves.py")]
        codes = [subprocess.run([*check, *map(str, folders)]).returncode]
        if not arguments.folders:
            # Traced into one graph as by default, but not handed to a C++ compiler, which takes many minutes.
            traced = os.environ | {"VLLM_CPU_CI_ENV": "1"}
            codes.append(
                subprocess.run([*check, "--compile", *map(str, folders[1:3])], env=traced).returncode
            )
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main())
