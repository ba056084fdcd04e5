"""Train one of the two example models from nothing, on a CPU, and export it.

    python examples/train_pylm.py --model llama --out examples/models/pylm-llama --minutes 60

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
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

CONTEXT = 256  # tokens in a training window
BATCH = 8  # windows in a step: 2048 tokens
QUERY_BLOCKS = 4  # see blocked_attention
WARMUP = 0.02  # share of the minutes in which the learning rates rise
DECAY = 0.6  # share of the minutes in which they fall to zero
MUON_STEPS = 4  # of the Newton-Schulz iteration
# GPT-2 stores its matrices transposed and query, key, value as one, so Muon's usual scale by shape
# (rows over columns) would be wrong for it; its updates all get the same root mean square instead.
MUON = {
    "llama": {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "original"},
    "gpt2": {"lr": 0.009, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"},
}
ADAM_LR, ADAM_BETAS = 8e-3, (0.9, 0.98)
SLOW_LR = 1e-3  # for positions, biases and norms; at ADAM_LR a norm's gain fell to about zero
SCORE_LIMIT = 60.0  # attention scores are clamped to +-this, where exp() is still exact in float32
SAVE_EVERY = 300.0  # seconds between checkpoints


def build_model(kind: str, vocab_size: int) -> PreTrainedModel:
    """Return a new model of about 1.3 million parameters; `kind` is "llama" or "gpt2"."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), pylm_data.BOS_ID)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2 * CONTEXT,
            tie_word_embeddings=True,
            **ids,
        )
        model: PreTrainedModel = LlamaForCausalLM(config)
    else:
        gpt2_config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=CONTEXT,
            n_embd=128,
            n_layer=5,
            n_head=4,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
            **ids,
        )
        model = GPT2LMHeadModel(gpt2_config)
        model.transformer.wpe.weight.data = waves(CONTEXT, 128)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "c_proj.weight")):
            nn.init.zeros_(parameter)  # every block starts as the identity, which allows high rates
    return model


def waves(length: int, size: int) -> Tensor:
    """Return (length, size) sines and cosines, the start of the learned positions.

    Their frequencies are evenly spaced, so a head can single out "the token before" at once; from
    noise that took thousands of steps.  They are about as large as trained token embeddings.
    """
    frequencies = 2.5 * torch.arange(1, size // 2 + 1) / (size // 2)  # radians a token
    angles = torch.arange(length)[:, None] * frequencies
    return 0.25 * torch.cat([angles.sin(), angles.cos()], dim=1)


def blocked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float = 1.0,
    **unused: object,
) -> tuple[Tensor, None]:
    """Causal softmax attention as plain matrix products that `torch.compile` fuses well.

    query (batch, heads, length, size); key and value (batch, groups, length, size); the result is
    (batch, length, heads, size).  The CPU kernel behind `scaled_dot_product_attention` took half of
    a training step for these shapes.  Here each block of queries meets only the keys it may see, the
    exponentials need no row maximum (the scores are clamped), and a column of ones appended to the values
    gives the normaliser in the same product.
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    step = length // QUERY_BLOCKS
    outputs = []
    with torch.autocast("cpu", enabled=False):
        query, key, value = (t.to(torch.bfloat16) for t in (query * scaling, key, value))
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
        for begin in range(0, length, step):
            end = begin + step
            rows = query[:, :, begin:end].reshape(batch * groups, heads // groups * step, size)
            columns = key[:, :, :end].reshape(batch * groups, end, size)
            scores = (rows @ columns.transpose(1, 2)).view(batch, heads, step, end)
            visible = torch.arange(begin, end)[:, None] >= torch.arange(end)[None]
            raised = torch.exp(scores.float().clamp(-SCORE_LIMIT, SCORE_LIMIT))
            weights = torch.where(visible, raised, 0.0).to(torch.bfloat16).view(batch * groups, -1, end)
            mixed = weights @ value[:, :, :end].reshape(batch * groups, end, size + 1)
            mixed = mixed.view(batch, heads, step, size + 1).float()
            outputs.append((mixed[..., :size] / mixed[..., size:]).to(torch.bfloat16))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


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


def rate(progress: float) -> float:
    """Return the factor on the learning rates after `progress` (0 to 1) of the training time."""
    return max(0.0, min(1.0, progress / WARMUP + 0.01, (1.0 - progress) / DECAY))


def train(model: PreTrainedModel, stream: np.ndarray, minutes: float, seed: int, out: Path) -> int:
    """Train in place and return the number of tokens seen; a checkpoint goes to `out` now and then."""
    AttentionInterface.register("blocked", blocked_attention)
    AttentionMaskInterface.register("blocked", lambda *args, **kwargs: None)
    model.set_attn_implementation("blocked")
    optimizers = make_optimizers(model)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    source = batches(stream, seed)

    @torch.compile
    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    loss_of(*next(source)).backward()  # compile before the clock starts
    model.zero_grad()
    start = saved = time.monotonic()
    step, mean = 0, math.nan
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        loss = loss_of(*next(source))
        loss.backward()
        for optimizer, values in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, values, strict=True):
                group["lr"] = peak * rate(progress)
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


def main() -> None:
    """Collect the text, train the tokenizer and the model, export both and write the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["llama", "gpt2"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)

    files = pylm_data.collect_files()
    tokenizer = pylm_data.train_tokenizer(files["train"])
    stream = np.concatenate(pylm_data.token_stream(tokenizer, files["train"]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    pylm_data.write_texts(tokenizer, files, arguments.out)

    model = build_model(arguments.model, len(tokenizer))
    print(f"{len(stream)} training tokens, {model.num_parameters()} parameters", flush=True)
    tokens = train(model, stream, arguments.minutes, arguments.seed, arguments.out)
    export_weights(model, arguments.out)
    minutes = f"{arguments.minutes:g} ({arguments.threads} CPU thread)"
    facts = {"training tokens seen": f"{tokens:,}", "training minutes": minutes, "seed": arguments.seed}
    write_card(arguments.out, facts)


if __name__ == "__main__":
    main()
