"""vLLM against transformers on compact checkpoints, offline, in float32. It runs where vLLM is installed, which the project
itself need not be: ``make check-vllm``.

    python tests/serving/vllm_serves.py FOLDER ... [--compile]

Per folder: greedy continuations of 20 prompts are equal, the log-probability of every token within 1e-3, and a token takes
what the written rule says of the engine's cache. Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker in this process: its tensors can be looked at
    "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
}
PROMPTS, SHORTEST, NEW, LONGEST = 20, 14, 24, 64
GAP = 1e-3
HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Of vLLM's kernel for CPUs."""

Answer = tuple[list[int], list[float]]
"""New tokens, and the log-probability of every token of prompt and answer but the first."""


def rule(config: dict[str, Any], itemsize: int) -> int:
    """Cache bytes per token, from the ranks: a layer's keys and values alike in the smallest head that holds both."""
    kv_heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or config["n_head"]
    ranks = map(max, zip(config["qk_ranks"], config["ov_ranks"], strict=True))
    sizes = [next(size for size in HEAD_SIZES if size >= rank) for rank in ranks]
    if (
        len(set(config.get("layer_types") or [])) > 1
    ):  # groups of layers with unlike windows share blocks of one size
        sizes = [max(sizes)] * len(sizes)
    return int(2 * kv_heads * itemsize * sum(sizes))


def prompts(vocabulary: int) -> list[list[int]]:
    """The same for every run: token ids all over the vocabulary, each prompt one longer than the one before."""
    state, made = 7, []
    for index in range(PROMPTS):
        ids = []
        for _ in range(SHORTEST + index):
            state = (1103515245 * state + 12345) % 2**31
            ids.append((state >> 8) % vocabulary)
        made.append(ids)
    return made


def served(folder: Path, asked: list[list[int]], compiles: bool) -> tuple[list[Answer], float, str]:
    """What vLLM answers, the cache bytes per token that its tensors and blocks come to, and the head sizes of its layers."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = LLM(
        model=str(folder),
        dtype="float32",
        trust_remote_code=True,
        enforce_eager=not compiles,
        max_model_len=LONGEST,
        max_num_seqs=8,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        seed=0,
    )
    sampling = SamplingParams(
        temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0, prompt_logprobs=0, detokenize=False
    )
    answers = engine.generate([{"prompt_token_ids": ids} for ids in asked], sampling, use_tqdm=False)
    context = engine.llm_engine.vllm_config.compilation_config.static_forward_context
    layers = {name: layer for name, layer in context.items() if hasattr(layer, "kv_cache")}
    held = engine.llm_engine.engine_core.engine_core.scheduler.kv_cache_config
    # A group of layers has blocks of its own, all out of one pool. Layers of one kind of attention are one group.
    storages = [layer.kv_cache.untyped_storage() for layer in layers.values()]
    pool = {storage.data_ptr(): storage.nbytes() for storage in storages}
    block_bytes = sum(pool.values()) / held.num_blocks
    taken = sum(block_bytes / group.kv_cache_spec.block_size for group in held.kv_cache_groups)
    heads = " ".join(str(layer.head_size) for layer in layers.values())
    found = []
    for ids, answer in zip(asked, answers, strict=True):
        (new,) = answer.outputs
        logprobs = [
            place[token].logprob for token, place in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)
        ]
        logprobs += [place[token].logprob for token, place in zip(new.token_ids, new.logprobs, strict=True)]
        found.append((list(new.token_ids), logprobs))
    context.clear()
    del engine, context, layers, held, storages
    gc.collect()
    cleanup_dist_env_and_memory()
    return found, taken, heads


def reference(folder: Path) -> list[Answer]:
    """What transformers answers."""
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
    model.generation_config.eos_token_id = None  # the engine goes on behind it too
    found = []
    for ids in prompts(config["vocab_size"]):
        prompt = torch.tensor([ids])  # which may hold the padding's id
        options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
            scores = model(whole).logits[0, :-1].double().log_softmax(-1)
        logprobs = scores.gather(1, whole[0, 1:, None])[:, 0].tolist()
        found.append((whole[0, len(ids) :].tolist(), logprobs))
    return found


def check(folder: Path, expected: list[Answer], compiles: bool) -> bool:
    """Whether vLLM serves the folder as transformers runs it; prints a line that says so."""
    config = json.loads((folder / "config.json").read_text())
    found, taken, heads = served(folder, prompts(config["vocab_size"]), compiles)
    equal, gap = 0, 0.0
    for (tokens, logprobs), (own_tokens, own_logprobs) in zip(expected, found, strict=True):
        equal += tokens == own_tokens
        gap = max(gap, *(abs(a - b) for a, b in zip(logprobs, own_logprobs, strict=True)))
    promised = rule(config, 4)
    good = equal == PROMPTS and gap <= GAP and taken == promised
    print(
        f"{'ok  ' if good else 'FAIL'} {folder}: {equal} of {PROMPTS} continuations equal, "
        f"log-probabilities within {gap:.1e}, cache {taken:g} bytes/token (rule: {promised}), heads of {heads}",
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument(
        "--compile", action="store_true", help="let the engine compile the model, as it does by default"
    )
    arguments = parser.parse_args()
    try:
        import vllm
    except ModuleNotFoundError:
        print(
            "vLLM is not installed here: `make check-vllm` gives it an environment of its own",
            file=sys.stderr,
        )
        return 2
    import transformers

    print(f"vllm {vllm.__version__}, transformers {transformers.__version__}", flush=True)
    # First of all: the engine changes transformers' own classes.
    expected = [reference(folder) for folder in arguments.folders]
    pairs = zip(arguments.folders, expected, strict=True)
    good = [check(folder, answers, arguments.compile) for folder, answers in pairs]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
