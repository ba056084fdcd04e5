"""Recompute the table of an example model's card from the folder itself.

    python examples/evaluate_pylm.py examples/models/pylm-llama

The model is scored on the folder's evaluation.txt.  The unigram and the bigram model it is
compared with are counted on the training files of the Python that runs this script, with the
folder's tokenizer: under another Python version than the card names they differ a little.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pylm_data
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 256  # tokens in an evaluation window
ROWS = 8  # windows in a forward pass
IDLE = 0.03  # nats per token
UNIGRAM_K = 0.5  # added to every unigram count


Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Report:
    """Losses in nats per token on evaluation.txt; `zeroing` maps a block's name to its added loss."""

    unigram: float
    bigram: float
    model: float
    zeroing: dict[str, float]
    tokens: int
    tokens_per_byte: float


def ngram_losses(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> tuple[float, float]:
    """Return the nats per token of an add-k unigram and an interpolated bigram on `heldout[1:]`.

    Both are counted on `train` (a token stream).  The bigram subtracts a discount from every count
    and gives the mass to the unigram; the discount is the usual estimate n1 / (n1 + 2 n2), n1 and n2
    the numbers of bigrams seen once and twice.
    """
    counts = np.bincount(train, minlength=vocab_size) + UNIGRAM_K
    unigram = counts / counts.sum()
    pairs, seen = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    once, twice = int((seen == 1).sum()), int((seen == 2).sum())
    discount = once / (once + 2 * twice)
    totals = np.maximum(np.bincount(train[:-1], minlength=vocab_size), 1)
    followers = np.bincount(pairs // vocab_size, minlength=vocab_size)

    first, second = heldout[:-1], heldout[1:]
    wanted = first * vocab_size + second
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    found = np.where(pairs[place] == wanted, seen[place], 0)
    left_over = np.where(followers[first] > 0, discount * followers[first] / totals[first], 1.0)
    bigram = np.maximum(found - discount, 0.0) / totals[first] + left_over * unigram[second]
    return float(-np.log(unigram[second]).mean()), float(-np.log(bigram).mean())


@torch.no_grad()
def model_loss(model: PreTrainedModel, ids: np.ndarray) -> float:
    """Return the nats per token of the model on `ids[1:]`.

    The stream is cut into windows of CONTEXT inputs that overlap by one token, so every token but
    the first is predicted once, from at most CONTEXT tokens before it and none of another window.
    """
    total = 0.0
    whole = (len(ids) - 1) // CONTEXT
    windows = [ids[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(whole)]
    groups = [np.stack(windows[i : i + ROWS]) for i in range(0, whole, ROWS)]
    if (len(ids) - 1) % CONTEXT:
        groups.append(ids[None, whole * CONTEXT :])
    for group in groups:
        rows = torch.from_numpy(group)
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        total += functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
    return total / (len(ids) - 1)


def blocks_of(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return {"attention 0": module, "MLP 0": module, ...} of a Llama or GPT-2 model."""
    llama = model.config.model_type == "llama"
    blocks: dict[str, nn.Module] = {}
    for i, layer in enumerate(model.model.layers if llama else model.transformer.h):
        blocks[f"attention {i}"] = layer.self_attn if llama else layer.attn
        blocks[f"MLP {i}"] = layer.mlp
    return blocks


def zeroed(module: nn.Module, inputs: object, output: Outputs) -> Outputs:
    """Forward hook: put zeros in place of what the block adds to the residual stream."""
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def evaluate(folder: Path) -> Report:
    """Measure the model in `folder` as it is stored (bfloat16 weights, computed in float32)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = (folder / "evaluation.txt").read_bytes().decode()
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
    train = np.concatenate(pylm_data.token_stream(tokenizer, pylm_data.collect_files()["train"]))
    unigram, bigram = ngram_losses(train, ids, len(tokenizer))
    loss = model_loss(model, ids)
    zeroing = {}
    for name, block in blocks_of(model).items():
        hook = block.register_forward_hook(zeroed)
        zeroing[name] = model_loss(model, ids) - loss
        hook.remove()
    return Report(unigram, bigram, loss, zeroing, len(ids), len(ids) / len(text.encode()))


def table(report: Report) -> str:
    """Return the report as two Markdown tables."""
    rows = [("unigram", report.unigram), ("bigram", report.bigram), ("this model", report.model)]
    lines = ["| model | nats/token | bits/byte | above this model |", "|---|---|---|---|"]
    for name, loss in rows:
        bits = loss * report.tokens_per_byte / math.log(2)
        lines.append(f"| {name} | {loss:.3f} | {bits:.3f} | {loss - report.model:.3f} |")
    lines += ["", "| layer | attention output zeroed | MLP output zeroed |", "|---|---|---|"]
    for i in range(len(report.zeroing) // 2):
        costs = (report.zeroing[f"{kind} {i}"] for kind in ("attention", "MLP"))
        lines.append(f"| {i} | " + " | ".join(f"{cost:+.3f}" for cost in costs) + " |")
    idle = [name for name, cost in report.zeroing.items() if cost < IDLE]
    lines += [
        "",
        f"Blocks nearly idle (zeroing costs less than {IDLE} nats/token): {', '.join(idle) or 'none'}.",
    ]
    return "\n".join(lines)


def sheet(rows: Mapping[str, object]) -> str:
    """Return a two-column Markdown table without a heading."""
    return "\n".join(["|  |  |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def write_card(folder: Path, facts: Mapping[str, object]) -> None:
    """Evaluate the model in `folder` and write its README.md; `facts` about its training join the sheet."""
    report = evaluate(folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    calibration = (folder / "calibration.txt").read_bytes().decode()
    calibration_tokens = len(tokenizer(calibration, add_special_tokens=False)["input_ids"])
    rows = {
        "text": f"standard library source of Python {platform.python_version()}",
        **facts,
        "tokenizer": f"byte-level BPE, {len(tokenizer)} tokens",
        "parameters": f"{model.num_parameters():,}",
        "stored as": config["dtype"],
        "calibration.txt": f"{len(calibration.encode()):,} bytes, {calibration_tokens:,} tokens",
        "evaluation.txt": f"{(folder / 'evaluation.txt').stat().st_size:,} bytes, {report.tokens:,} tokens",
    }
    skipped = {"architectures", "dtype", "transformers_version"}
    settings = {key: value for key, value in config.items() if key not in skipped and value is not None}
    card = CARD.format(
        name=folder.name,
        kind=config["architectures"][0],
        table=table(report),
        context=CONTEXT,
        facts=sheet(rows),
        settings=sheet(settings),
    )
    (folder / "README.md").write_text(card)


CARD = """---
license: psf-2.0
language: code
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A small `{kind}` trained from nothing on Python source, as an example model to compress. It writes
text that looks like Python; it is no use as an assistant and its output should not be run.

## Text and licence

The text is the standard library that comes with CPython (`Lib`, with `Lib/test`; no generated tables,
no files with exact copies). Copyright (c) 2001-2023 Python Software Foundation; it is under the PSF
License Agreement, see `LICENSE-PSF.txt`. `calibration.txt` and `evaluation.txt` are excerpts of it.
Each file of the library belongs to one of training, calibration and evaluation by a hash of its path,
so neither text was trained on. Both texts are neighbouring functions of many files.

## Tokenizer

Byte-level BPE trained on the training files. A token may span words of a line and starts, at a line's
beginning, with the newline and the indentation. It adds no tokens by itself. `<|bos|>` (id 0) stands
before each file in training, and serves as start, end and padding token; most training windows start
in the middle of a file, without it.

## How well it learned

Measured on `evaluation.txt` with the stored weights, in windows of {context} tokens, by
`python examples/evaluate_pylm.py`. The unigram (add-0.5) and the bigram (absolute discounting,
interpolated with the unigram) are counted on the training files.

{table}

The second table is the loss added (nats/token) when one block's output is replaced by zeros.

## Facts

{facts}

## Configuration

{settings}
"""


def main() -> None:
    """Print the tables of a model folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(table(evaluate(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
