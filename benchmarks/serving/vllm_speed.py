"""vLLM's speed with a dense model and its compact checkpoints, side by side: tokens per second of prefill and decoding, and the
tokens that a given memory caches. It runs in vLLM's environment (``make check-vllm`` makes one):

    .venv-vllm/bin/python benchmarks/serving/vllm_speed.py DENSE COMPACT ... [--rounds 2] [--compile]

Each round runs them all, in turns, each in a process of its own. Times are processor seconds of the process, one thread: on a
machine that others use too they hold where wall times do not. Ratios are to the first of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MARK = "measured: "


def measure(folder: Path, batch: int, prompt: int, new: int, *, compiles: bool) -> dict[str, float]:
    """Of one model: tokens per processor second of prefill and of decoding, and the tokens that 1 GiB caches."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(folder),
        dtype="bfloat16",
        trust_remote_code=True,
        enforce_eager=not compiles,
        max_model_len=prompt + new + 1,
        max_num_seqs=batch,
        max_num_batched_tokens=batch * prompt,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    prompts = [
        {"prompt_token_ids": [7 + (31 * row + 7 * at) % 1000 for at in range(prompt)]} for row in range(batch)
    ]

    def seconds(count: int) -> float:
        sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        start = time.process_time()
        engine.generate(prompts, sampling, use_tqdm=False)
        return time.process_time() - start

    seconds(2)  # warms up
    prefill = min(seconds(1) for _ in range(2))
    whole = min(seconds(1 + new) for _ in range(2))
    return {
        "prefill": batch * prompt / prefill,
        "decode": batch * new / (whole - prefill),
        "cached": engine.llm_engine.vllm_config.cache_config.num_gpu_blocks
        * engine.llm_engine.vllm_config.cache_config.block_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--new", type=int, default=32, help="tokens")
    parser.add_argument(
        "--compile", action="store_true", help="let the engine compile, as it does by default"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("batch", "prompt", "new")}
    if arguments.one:
        found = measure(arguments.folders[0], **sizes, compiles=arguments.compile)
        print(MARK + json.dumps(found), flush=True)
        return
    options = [f"--{name}={value}" for name, value in sizes.items()] + ["--compile"] * arguments.compile
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    rounds: list[list[dict[str, float]]] = []
    for turn in range(arguments.rounds):
        rows = {}
        for folder in arguments.folders[:: 1 if turn % 2 == 0 else -1]:
            command = [sys.executable, __file__, str(folder), "--one", *options]
            done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
            if not lines:
                raise SystemExit(f"{folder}: vLLM failed\n{done.stderr[-2000:]}")
            rows[folder] = json.loads(lines[0].removeprefix(MARK))
        rounds.append([rows[folder] for folder in arguments.folders])
    shape = f"{arguments.batch} x {arguments.prompt}"
    print(
        f"| | prefill of {shape}, tokens/s | decoding of {arguments.batch}, tokens/s | tokens cached in 1 GiB |"
    )
    print("|---|---|---|---|")
    for index, folder in enumerate(arguments.folders):
        cells = []
        for name in rounds[0][0]:
            middle = statistics.median(row[index][name] for row in rounds)
            ratio = statistics.median(row[index][name] / row[0][name] for row in rounds)
            cells.append(f"{middle:,.0f} ({ratio:.2f})")
        print(f"| {folder.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
