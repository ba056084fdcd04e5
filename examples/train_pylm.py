"""Train one of the two example models from nothing, on a CPU, and export it.

    python examples/train_pylm.py --model llama --out examples/models/pylm-llama --minutes 60

or continue from exported weights and start an idle MLP afresh (see `pylm_wake`):

    python examples/train_pylm.py --resume examples/models/pylm-llama --wake-mlp 1 --out /tmp/llama

With `--in-turn` the MLPs of several layers restart and each learns alone.

The text, the split and the tokenizer come from `pylm_data`; the model card is written by
`evaluate_pylm`.  The schedule follows the clock: the learning rates reach zero when the minutes
are spent, so a slower machine sees fewer tokens but still ends with an annealed model.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pylm_data
import torch
from evaluate_pylm import write_card
from pylm_attention import use_blocked_attention
from pylm_model import CONTEXT, build_model
from pylm_wake import Phase, mute_mlps, restart_mlps, train_all_but_norms, wake_phases, zeroing_cost
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)

BATCH = 8  # windows in a step: 2048 tokens
WAKE_BATCHES = 16  # on which a restarted MLP's worth is printed
MUON_STEPS = 4  # of the Newton-Schulz iteration
# GPT-2 stores its matrices transposed and query, key, value as one, so Muon's usual scale by shape
# (rows over columns) would be wrong for it; its updates all get the same root mean square instead.
MUON = {
    "llama": {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "original"},
    "gpt2": {"lr": 0.009, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"},
}
ADAM_LR, ADAM_BETAS = 8e-3, (0.9, 0.98)
SLOW_LR = 1e-3  # for positions, biases and norms; at ADAM_LR a norm's gain fell to about zero
SAVE_EVERY = 300.0  # seconds between checkpoints


def batches(stream: np.ndarray, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, targets), each (BATCH, CONTEXT) token ids, forever.

    Every pass cuts the stream at a new offset, so no two passes see the same windows.
    """
    generator = np.random.default_rng(seed)
    while True:
        offset = int(generator.integers(CONTEXT))
        starts = generator.permutation(np.arange(offset, len(stream) - CONTEXT - 1, CONTEXT))
        for i in range(0, len(starts) - BATCH + 1, BATCH):
            rows = torch.from_numpy(np.stack([stream[s : s + CONTEXT + 1] for s in starts[i : i + BATCH]]))
            yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def make_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases."""
    matrices, embeddings, slow = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and (".layers." in name or ".h." in name):
            matrices.append(parameter)
        elif parameter.ndim == 2 and ".wpe." not in name:
            embeddings.append(parameter)
        else:
            slow.append(parameter)
    groups = [{"params": embeddings, "lr": ADAM_LR}, {"params": slow, "lr": SLOW_LR}]
    return [
        torch.optim.Muon(matrices, ns_steps=MUON_STEPS, **MUON[model.config.model_type]),
        torch.optim.AdamW(groups, betas=ADAM_BETAS, weight_decay=0.0),
    ]


def train(model: PreTrainedModel, source: Iterator[tuple[Tensor, Tensor]], phase: Phase, out: Path) -> int:
    """Train what requires a gradient, in place, on batches of `source`; return the number of tokens seen.

    A checkpoint goes to `out` now and then.
    """
    use_blocked_attention(model)
    torch.compiler.reset()  # the graph depends on what is frozen
    optimizers = make_optimizers(model)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]

    @torch.compile
    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    loss_of(*next(source)).backward()  # compile before the clock starts
    model.zero_grad()
    start = saved = time.monotonic()
    step, mean = 0, math.nan
    while (progress := (time.monotonic() - start) / (60 * phase.minutes)) < 1:
        loss = loss_of(*next(source))
        loss.backward()
        for optimizer, values in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, values, strict=True):
                group["lr"] = peak * phase.rate(progress)
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            speed = step * BATCH * CONTEXT / (time.monotonic() - start)
            print(f"{progress:6.1%} step {step} loss {mean:.3f} {speed:.0f} tokens/s", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            export_weights(model, out)
    return step * BATCH * CONTEXT


def export_weights(model: PreTrainedModel, out: Path) -> None:
    """Write a bfloat16 copy of the model, with its configuration, to the folder `out`."""
    clone = type(model)(deepcopy(model.config))
    clone.load_state_dict(model.state_dict())
    clone.set_attn_implementation("sdpa")
    clone.to(torch.bfloat16).save_pretrained(out)


def continue_training(
    model: PreTrainedModel,
    source: Iterator[tuple[Tensor, Tensor]],
    layers: list[int],
    minutes: float,
    out: Path,
) -> int:
    """Restart the MLPs of `layers`, train them alone, then train everything; return the number of tokens seen."""
    restart_mlps(model, layers)
    tokens = 0
    for phase in wake_phases(minutes):
        tokens += train(model, source, phase, out)
        export_weights(model, out)
        samples = [next(source) for _ in range(WAKE_BATCHES)]
        for layer in layers:
            cost = zeroing_cost(model, layer, samples)
            print(f"zeroing MLP {layer} costs {cost:+.3f} nats/token on training text", flush=True)
        train_all_but_norms(model, layers)
    return tokens


def wake_in_turn(
    model: PreTrainedModel,
    source: Iterator[tuple[Tensor, Tensor]],
    layers: list[int],
    minutes: float,
    out: Path,
) -> int:
    """Mute the MLPs of `layers`, then restart and train one after the other, nothing else.

    The first one thus learns part of the work of the others, and keeps it, for it is frozen when they
    return.  Returns the number of tokens seen.
    """
    mute_mlps(model, layers)
    tokens = 0
    for layer in layers:
        restart_mlps(model, [layer])
        tokens += train(model, source, Phase(minutes / len(layers), peak=0.5, decay=1.0), out)
        cost = zeroing_cost(model, layers[0], [next(source) for _ in range(WAKE_BATCHES)])
        print(f"zeroing MLP {layers[0]} costs {cost:+.3f} nats/token on training text", flush=True)
    return tokens


def main() -> None:
    """Collect the text, train the tokenizer and the model, export both and write the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", choices=["llama", "gpt2"], help="start from nothing")
    start.add_argument("--resume", type=Path, help="start from the weights and tokenizer of this folder")
    parser.add_argument(
        "--wake-mlp", type=int, nargs="+", default=[1], help="with --resume: layers whose MLPs restart"
    )
    parser.add_argument("--in-turn", action="store_true", help="train these MLPs in turn, nothing else")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)

    out, resume, minutes = arguments.out, arguments.resume, arguments.minutes
    files = pylm_data.collect_files()
    tokenizer = AutoTokenizer.from_pretrained(resume) if resume else pylm_data.train_tokenizer(files["train"])
    stream = np.concatenate(pylm_data.token_stream(tokenizer, files["train"]))
    out.mkdir(parents=True, exist_ok=True)
    pylm_data.write_texts(tokenizer, files, out)

    source = batches(stream, arguments.seed)
    facts: dict[str, object] = {}
    if resume:
        model = AutoModelForCausalLM.from_pretrained(resume, dtype=torch.float32)
        wake = wake_in_turn if arguments.in_turn else continue_training
        tokens = wake(model, source, arguments.wake_mlp, minutes, out)
        facts["continued from"] = f"{resume}, MLPs {arguments.wake_mlp} started afresh"
    else:
        model = build_model(arguments.model, len(tokenizer))
        tokens = train(model, source, Phase(minutes), out)
    export_weights(model, out)
    facts["training tokens seen"] = f"{tokens:,}"
    facts["training minutes"] = f"{minutes:g} ({arguments.threads} CPU thread)"
    write_card(out, {**facts, "seed": arguments.seed})


if __name__ == "__main__":
    main()
