"""Perplexity of a text's beginning in a serving engine, beside transformers' on the same checkpoint:

    python -m benchmarks.serving.perplexity COMPRESSED ... --engine vllm --python .venv-vllm/bin/python
    python -m benchmarks.serving.perplexity COMPRESSED ... --engine llama.cpp

``COMPRESSED`` are folders that ``rankalloc compress --target ...`` wrote: ``compact/`` is what transformers runs, in float32,
and what vLLM serves, in the type of its weights; ``gguf/model.gguf`` is what llama.cpp runs. A model folder is served as it is.
The text is cut into windows without overlap; of each all tokens but the first are predicted. Ends with 1 where an engine is
farther from transformers than ``--within``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import solvers  # noqa: F401 - makes compact checkpoints known
from benchmarks.serving.vllm_perplexity import MARK
from tests.support.llama_cpp import LlamaCpp

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT.parent / "shared" / "text" / "wikitext2-test.txt"
SEQUENCES = 8
"""That llama.cpp scores side by side."""
Windows = list[list[int]]
Scores = list[list[float]]


def windows_of(folder: Path, text: Path, tokens: int, length: int) -> Windows:
    """The text's first tokens, cut. A character is a token at most four times over, so that not all of it is read."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    beginning = text.read_text(encoding="utf-8")[: 16 * tokens]
    ids = tokenizer(beginning, add_special_tokens=False)["input_ids"][:tokens]
    if len(ids) < tokens:
        raise SystemExit(f"--tokens {tokens}: {text} has {len(ids)}")
    return [ids[start : start + length] for start in range(0, tokens, length)]


@torch.no_grad()
def in_transformers(folder: Path, windows: Windows) -> Scores:
    """In float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for ids in windows:
        scores = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
        rows.append(scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
    return rows


def in_vllm(folder: Path, windows: Windows, python: Path, dtype: str) -> Scores:
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [
        str(python),
        str(Path(__file__).with_name("vllm_perplexity.py")),
        str(folder),
        "--dtype",
        dtype,
    ]
    process = subprocess.run(
        command,
        input=json.dumps(windows) + "\n",
        env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise SystemExit(f"{folder}: vLLM failed\n{process.stderr[-2000:]}")
    scores: Scores = json.loads(lines[0].removeprefix(MARK))
    return scores


def in_llama_cpp(file: Path, windows: Windows, vocab: int) -> Scores:
    """Token by token: its server tells log-probabilities of what it generates only, so that every next token is forced."""
    with LlamaCpp(file, context=max(map(len, windows)) + 1, sequences=min(len(windows), SEQUENCES)) as served:
        return served.scores(windows, vocab)


def perplexity(scores: Scores) -> float:
    flat = [score for row in scores for score in row]
    return math.exp(-math.fsum(flat) / len(flat))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, score, print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.perplexity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", help="what rankalloc compress wrote, or model folders"
    )
    parser.add_argument("--engine", choices=("vllm", "llama.cpp"), required=True)
    parser.add_argument(
        "--python",
        type=Path,
        default=ROOT / ".venv-vllm" / "bin" / "python",
        help="the interpreter with vLLM",
    )
    parser.add_argument("--text", type=Path, default=TEXT, help="default: WikiText-2, test")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512, help="tokens")
    parser.add_argument("--dtype", default="auto", help="of vLLM; default: the checkpoint's")
    parser.add_argument("--within", type=float, default=0.005, help="allowed difference, as a share")
    options = parser.parse_args(argv)
    if not options.text.is_file():
        raise SystemExit(f"{options.text}: no such text; name --text")
    if options.engine == "vllm" and not options.python.exists():
        raise SystemExit(f"{options.python} is not there: `make check-vllm` installs vLLM; or name --python")
    good = True
    print(f"| model | tokens | transformers, float32 | {options.engine} | difference |\n" + "|---" * 5 + "|")
    for folder in options.folders:
        compact = folder / "compact" if (folder / "compact").is_dir() else folder
        file = folder / "gguf" / "model.gguf"
        if options.engine == "llama.cpp" and not file.is_file():
            raise SystemExit(f"{file} is not there: rankalloc compress --target llama.cpp writes it")
        vocab = AutoConfig.from_pretrained(compact).vocab_size
        windows = windows_of(compact, options.text, options.tokens, options.window)
        expected = perplexity(in_transformers(compact, windows))
        scores = (
            in_vllm(compact, windows, options.python, options.dtype)
            if options.engine == "vllm"
            else in_llama_cpp(file, windows, vocab)
        )
        measured = perplexity(scores)
        off = measured / expected - 1
        good = good and abs(off) <= options.within
        print(f"| {folder.name} | {options.tokens:,} | {expected:.3f} | {measured:.3f} | {off:+.3%} |")
        sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
