"""Greedy continuations are those of transformers' own generation, with its cache."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from allocator.profiling.continuations import PROMPT_TOKENS, continued, prompts_of, until_end
from solvers.model.surgery import open_model
from tests.support.models import tiny, token_ids


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_they_are_those_of_transformers(family: str) -> None:
    prompts = token_ids(3, 12)
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = tiny(family).generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    opened = open_model(tiny(family), memory_bytes=1)  # two layers at a time
    passes: list[None] = []
    found = continued(opened, prompts, 9, lambda: passes.append(None))
    assert found.tolist() == expected[:, 12:].tolist()
    assert len(passes) == 9 * len(opened.source)


def test_prompts_are_spread_over_the_text_and_keep_what_leads_every_window() -> None:
    windows = torch.arange(20 * 64).view(20, 64)
    assert prompts_of(windows, prefix=2).tolist() == windows[[0, 5, 10, 14, 19], : PROMPT_TOKENS + 2].tolist()
    assert prompts_of(windows[:2, :8], prefix=0).tolist() == windows[:2, :8].tolist()


@pytest.mark.parametrize("ends", [9, [9, 5], None])
def test_a_text_ends_where_the_model_ends_it(ends: object) -> None:
    config = SimpleNamespace(eos_token_id=ends)
    assert until_end([1, 2, 9, 3], config) == ([1, 2] if ends else [1, 2, 9, 3])
    assert until_end([5], config) == ([] if ends == [9, 5] else [5])
