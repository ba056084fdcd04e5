"""Log-probabilities of given tokens in vLLM, for ``benchmarks.serving.perplexity``. It runs in vLLM's environment.

One line of JSON on standard input: windows of token ids. A marked line of JSON on standard output: the log-probability of every
token of every window but the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

MARK = "scored: "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    windows: list[list[int]] = json.loads(sys.stdin.readline())

    from vllm import LLM, SamplingParams

    longest = max(map(len, windows))
    engine = LLM(
        model=str(arguments.folder),
        dtype=arguments.dtype,
        trust_remote_code=True,
        enforce_eager=True,
        max_model_len=longest + 1,
        max_num_seqs=2,
        max_num_batched_tokens=2 * longest,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    sampling = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True
    )
    answers = engine.generate([{"prompt_token_ids": ids} for ids in windows], sampling, use_tqdm=False)
    scores = [
        [place[token].logprob for token, place in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)]
        for ids, answer in zip(windows, answers, strict=True)
    ]
    print(MARK + json.dumps(scores), flush=True)


if __name__ == "__main__":
    main()
