"""vLLM's speed with a dense model and its compact checkpoints, side by side: tokens per second of prefill and decoding, the
bytes of cache that it allocates for a token, and the sequences that 1 GiB of them holds. It runs in vLLM's environment
(``make check-vllm`` makes one):

    .venv-vllm/bin/python benchmarks/serving/vllm_speed.py DENSE COMPRESSED ... [--rounds 12] [--compile] [--backend]

``COMPRESSED`` are compact checkpoints, or what ``rankalloc compress`` wrote with one inside. All are loaded into one process
and run in turns. Times are processor seconds, one thread: on a machine that others use too they hold where wall times do not,
but not exactly, since others take memory and its caches away. So a speed is that of the fastest round, and a ratio the median
over the rounds of that to the first model in the same round (the quartiles behind it).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),  # it logs to standard output
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engines and workers in this process: its time is theirs
}
CACHE_BYTES = 1 << 28
"""The cache of each engine."""


class Served:
    """A model in an engine of its own."""

    def __init__(self, name: str, folder: Path, implementation: str, options: argparse.Namespace) -> None:
        from vllm import LLM, SamplingParams

        self.name, self.options, self.sampling = name, options, SamplingParams
        self.engine: Any = LLM(
            model=str(folder),
            model_impl=implementation,
            dtype="bfloat16",
            trust_remote_code=True,
            enforce_eager=not options.compile,
            max_model_len=options.prompt + options.new + 1,
            max_num_seqs=options.batch,
            max_num_batched_tokens=options.batch * options.prompt,
            kv_cache_memory_bytes=CACHE_BYTES,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            disable_log_stats=True,
        )
        self.prompts = [
            {"prompt_token_ids": [7 + (31 * row + 7 * position) % 1000 for position in range(options.prompt)]}
            for row in range(options.batch)
        ]
        self.seconds(4)  # warms up
        self.rounds: list[tuple[float, float]] = []

    def seconds(self, count: int) -> float:
        """Processor time of prefill and ``count - 1`` steps."""
        sampling = self.sampling(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        start = time.process_time()
        self.engine.generate(self.prompts, sampling, use_tqdm=False)
        return time.process_time() - start

    def round(self) -> None:
        """One more measurement of tokens per second, of prefill and of decoding."""
        prefill = self.seconds(1)
        steps = self.seconds(1 + self.options.new) - prefill
        batch = self.options.batch
        self.rounds.append((batch * self.options.prompt / prefill, batch * self.options.new / steps))

    def cache(self) -> tuple[float, float]:
        """Bytes that the engine allocates for a token, and sequences of ``context`` tokens in 1 GiB."""
        config = self.engine.llm_engine.vllm_config
        layers = config.compilation_config.static_forward_context.values()
        storages = [layer.kv_cache.untyped_storage() for layer in layers if hasattr(layer, "kv_cache")]
        pool = {storage.data_ptr(): storage.nbytes() for storage in storages}
        block_bytes = sum(pool.values()) / config.cache_config.num_gpu_blocks
        block = config.cache_config.block_size
        return block_bytes / block, 2**30 // (block_bytes * -(-self.options.context // block))


def checkpoint(folder: Path) -> Path:
    """The checkpoint inside what ``rankalloc compress`` wrote, or the folder itself."""
    return folder / "compact" if (folder / "compact").is_dir() else folder


def line(model: Served, reference: Served) -> str:
    """A row of the table."""
    cells = []
    for part in (0, 1):
        pairs = zip(model.rounds, reference.rounds, strict=True)
        low, middle, high = statistics.quantiles([mine[part] / theirs[part] for mine, theirs in pairs], n=4)
        best = max(speeds[part] for speeds in model.rounds)
        cells.append(f"{best:,.0f} | {middle:.2f} ({low:.2f}-{high:.2f})")
    token_bytes, sequences = model.cache()
    cells.append(f"{token_bytes:,.0f} | {sequences:.0f}")
    return f"| {model.name} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse arguments, run the rounds, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--new", type=int, default=16, help="tokens")
    parser.add_argument(
        "--context", type=int, default=2048, help="tokens of a sequence that is counted in memory"
    )
    parser.add_argument(
        "--compile", action="store_true", help="let the engine compile, as it does by default"
    )
    parser.add_argument(
        "--backend",
        action="store_true",
        help="the first model once more, through vLLM's Transformers backend instead of a class of its own",
    )
    options = parser.parse_args(argv)
    if options.rounds < 2:
        parser.error(f"--rounds {options.rounds}: at least 2")
    runs = [(folder.name, checkpoint(folder), "auto") for folder in options.folders]
    if options.backend:
        runs.insert(1, (f"{runs[0][0]}, Transformers backend", runs[0][1], "transformers"))
    models = [Served(*run, options) for run in runs]
    for turn in range(options.rounds):
        for model in models[:: 1 if turn % 2 == 0 else -1]:
            model.round()
    print(
        f"| | prefill of {options.batch} x {options.prompt}, tokens/s | to the first | decoding of {options.batch}, tokens/s "
        f"| to the first | cache, bytes/token | sequences of {options.context:,} tokens in 1 GiB |"
    )
    print("|---" * 7 + "|")
    for model in models:
        print(line(model, models[0]))


if __name__ == "__main__":
    main()
