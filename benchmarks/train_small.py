"""Two small models of families that the bundled examples lack, trained from nothing on the same text.

    python -m benchmarks.train_small --out FOLDER

GPT-NeoX (half of each head rotated, biases, attention and MLP side by side) and OPT (ReLU, learned positions, biases), about
1.3 million parameters each, on the Python standard library as ``examples/pylm_data.py`` splits it, with the bundled tokenizer.
A model whose folder exists is not trained again. Steps are counted, not minutes, so a machine repeats its own weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from benchmarks.allocation import ROOT, Case

sys.path.append(str(ROOT / "examples"))
import pylm_data
from pylm_model import CONTEXT, waves

NAMES = ("small-gpt_neox", "small-opt")
STEPS = 1500
BATCH = 8
WARMUP, DECAY = 0.03, 0.6
MATRIX_RATE, EMBEDDING_RATE, SLOW_RATE = 0.009, 8e-3, 1e-3
OUTPUT_SCALE = 0.3
"""Scale of matrices that write to the residual stream, against one that keeps the size of its input. Started at zero, the
first MLP learns before the others have a gradient and leaves some of them idle (``examples/pylm_wake.py``)."""


def build(name: str, vocab: int) -> Any:
    """A new model, its weights drawn from torch's global generator."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), pylm_data.BOS_ID)
    common: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 128,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        **ids,
    }
    if name == "small-gpt_neox":
        rotation = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        model: Any = GPTNeoXForCausalLM(
            GPTNeoXConfig(intermediate_size=512, rope_parameters=rotation, **common)
        )
    else:
        off = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0)
        model = OPTForCausalLM(OPTConfig(ffn_dim=512, word_embed_proj_dim=128, **off, **common))
        positions = model.model.decoder.embed_positions.weight
        positions.data = waves(len(positions), 128)
    for path, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".layers." in path:
            writes = path.endswith(("dense.weight", "4h_to_h.weight", "out_proj.weight", "fc2.weight"))
            nn.init.normal_(parameter, std=(OUTPUT_SCALE if writes else 1.0) * parameter.shape[1] ** -0.5)
    return model


def batches(stream: np.ndarray, seed: int) -> Iterator[torch.Tensor]:
    """(BATCH, CONTEXT + 1) token ids, forever; every pass cuts the stream at a new offset."""
    generator = np.random.default_rng(seed)
    while True:
        offset = int(generator.integers(CONTEXT))
        starts = generator.permutation(np.arange(offset, len(stream) - CONTEXT - 1, CONTEXT))
        for first in range(0, len(starts) - BATCH + 1, BATCH):
            yield torch.from_numpy(
                np.stack([stream[s : s + CONTEXT + 1] for s in starts[first : first + BATCH]])
            )


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    embeddings: list[nn.Parameter] = []
    slow: list[nn.Parameter] = []
    for path, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".layers." in path:
            matrices.append(parameter)
        else:
            (embeddings if "embed_tokens" in path or "embed_in" in path else slow).append(parameter)
    groups = [{"params": embeddings, "lr": EMBEDDING_RATE}, {"params": slow, "lr": SLOW_RATE}]
    return [
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.1, ns_steps=4, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(model: Any, source: Iterator[torch.Tensor], steps: int) -> float:
    """Train in place; the mean loss of the last twentieth, nats/token."""
    optimizers_used = optimizers(model)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers_used]
    losses, started = [], time.monotonic()
    for step in range(steps):
        rate = min(1.0, (step + 1) / (WARMUP * steps), (steps - step) / (DECAY * steps))
        rows = next(source)
        loss = functional.cross_entropy(
            model(input_ids=rows[:, :-1], use_cache=False).logits.flatten(0, 1), rows[:, 1:].flatten()
        )
        loss.backward()
        for optimizer, values in zip(optimizers_used, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, values, strict=True):
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - started
            sys.stderr.write(f"step {step + 1} loss {np.mean(losses[-100:]):.3f} {spent:.0f} s\n")
    return float(np.mean(losses[-max(1, steps // 20) :]))


def trained(name: str, out: Path, *, steps: int = STEPS, seed: int = 0) -> Case:
    """The model's folder under ``out`` with its texts, trained first if it is not there."""
    folder = out / name
    if not folder.is_dir():
        torch.manual_seed(seed)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "examples" / "models" / "pylm-llama")
        files = pylm_data.collect_files()
        stream = np.concatenate(pylm_data.token_stream(tokenizer, files["train"]))
        model = build(name, len(tokenizer))
        loss = train(model, batches(stream, seed), steps)
        sys.stderr.write(f"{name}: {loss:.3f} nats/token on the last training text\n")
        partial = out / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pylm_data.write_texts(tokenizer, files, partial)
        model.eval().save_pretrained(partial)
        partial.rename(folder)  # a run that was cut short leaves no folder that looks trained
    return Case(name, folder, folder / "calibration.txt", folder / "evaluation.txt")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_small", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    for name in NAMES:
        trained(name, options.out, steps=options.steps)


if __name__ == "__main__":
    main()
