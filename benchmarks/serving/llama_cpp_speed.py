"""llama.cpp's speed with a dense model and its plans, side by side: tokens per second of prefill and decoding, bytes of files,
and the sequences whose caches 1 GiB holds, by what llama.cpp's log says that it allocates.

    python -m benchmarks.serving.llama_cpp_speed DENSE_MODEL COMPRESSED ... [--rounds 3]

``COMPRESSED`` are folders that ``rankalloc compress --target llama.cpp`` wrote. The dense model is written as GGUF files here,
by the same code. Each round runs them all, in turns, each in a process of its own with one thread; times are the process's own
processor seconds, ratios are to the dense model of the same round, and their medians are told.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path

from solvers.checkpoints import reading
from solvers.checkpoints.writing import write_compact
from solvers.gguf import write_gguf
from solvers.model.surgery import open_model
from tests.support.llama_cpp import LlamaCpp

FILES = ("model.gguf", "model-q8_0.gguf")


def dense_files(model: Path, folder: Path) -> Path:
    """The model as it is, as GGUF files in a folder of ``folder``."""
    inspected = reading.inspect(model)
    opened = open_model(reading.load(inspected))
    layers = [opened.source[index] for index in range(len(opened.source))]
    compact, files = folder / "compact", folder / "gguf"
    write_compact(opened, layers, compact, source=model, dtype=reading.storage_dtype(inspected))
    write_gguf(compact, files)
    return files


def speeds(file: Path, prompt: int, new: int) -> tuple[float, float]:
    """Tokens per processor second of prefill and of decoding; a first pass warms up."""
    ids = [7 + (31 * position) % 1000 for position in range(prompt)]
    body = {"prompt": ids, "temperature": -1.0, "ignore_eos": True, "cache_prompt": False}
    with LlamaCpp(file, context=prompt + new + 1) as served:

        def seconds(count: int) -> float:
            start = served.processor_seconds()
            served.ask("/completion", body | {"n_predict": count})
            return served.processor_seconds() - start

        seconds(2)
        prefill = seconds(1)
        return prompt / prefill, new / (seconds(1 + new) - prefill)


def sequence_bytes(file: Path, context: int) -> float:
    """Bytes of the caches that llama.cpp allocates for one sequence, as its log says."""
    with LlamaCpp(file, context=context) as served:
        served.tokens("a")
        log = served.close()
    # A first pass without memory, which sees what would fit, tells of 0 MiB.
    return 2**20 * sum(map(float, re.findall(r"KV buffer size = +([0-9.]+) MiB", log)))


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, run the rounds, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.llama_cpp_speed", description=__doc__)
    parser.add_argument("dense", type=Path, help="a model folder")
    parser.add_argument("compressed", type=Path, nargs="+", help="what rankalloc compress wrote, with gguf/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument(
        "--context", type=int, default=2048, help="tokens of a sequence that is counted in memory"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        places = {"dense": dense_files(options.dense, Path(folder))}
        places |= {path.name: path / "gguf" for path in options.compressed}
        speeds_of: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for name, place in places.items():
                for file in FILES:
                    speeds_of.setdefault((name, file), []).append(
                        speeds(place / file, options.prompt, options.new)
                    )
        print(
            "| model | file | MB | prefill, tokens/s | to dense | decoding, tokens/s | to dense "
            f"| sequences of {options.context:,} tokens in 1 GiB |"
        )
        print("|---" * 8 + "|")
        for (name, file), rows in speeds_of.items():
            cells = []
            for part in (0, 1):
                ratios = [
                    row[part] / dense[part] for row, dense in zip(rows, speeds_of["dense", file], strict=True)
                ]
                cells += [
                    f"{statistics.median(row[part] for row in rows):.1f}",
                    f"{statistics.median(ratios):.2f}",
                ]
            size = (places[name] / file).stat().st_size / 1e6
            sequences = 2**30 // sequence_bytes(places[name] / file, options.context)
            print(f"| {name} | {file} | {size:.1f} | {' | '.join(cells)} | {sequences:.0f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
