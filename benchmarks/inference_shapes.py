"""Shapes of models, and cuts of their ranks, that ``benchmarks.inference`` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from transformers import GPT2Config, LlamaConfig

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.baselines import floored, uniform
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks

VOCAB = 1024


@dataclass(frozen=True)
class ModelShape:
    """A model and its work: ``prompt`` tokens of one sequence, then single tokens after them."""

    name: str
    family: str
    sizes: dict[str, int]
    prompt: int

    def config(self) -> Any:
        kind = {"llama": LlamaConfig, "gpt2": GPT2Config}[self.family]
        return kind(
            **self.sizes, vocab_size=VOCAB, max_position_embeddings=4096, bos_token_id=0, eos_token_id=0
        )


def llama(name: str, hidden: int, heads: str, mlp: int, *, layers: int, prompt: int) -> ModelShape:
    """``heads`` is query heads / key-value heads x head_dim."""
    counts, head_dim = heads.split("x")
    queries, keys = counts.split("/")
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": int(queries),
        "num_key_value_heads": int(keys),
        "head_dim": int(head_dim),
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
    }
    return ModelShape(name, "llama", sizes, prompt)


SHAPES = [
    llama("small", 512, "8/4x64", 1408, layers=4, prompt=512),
    llama("medium", 1024, "16/16x64", 2816, layers=2, prompt=512),
    llama("long", 1024, "16/4x64", 2816, layers=2, prompt=2048),
    ModelShape("gpt2", "gpt2", {"n_embd": 768, "n_head": 12, "n_layer": 2}, 512),
    llama("8B layer", 4096, "32/8x128", 14336, layers=1, prompt=128),
]

Cut = Callable[[Geometry], Ranks]


def removed(fraction: str, align: int = 1) -> Cut:
    """Uniform ranks with at least ``fraction`` of the blocks' parameters removed, floored to multiples of ``align``."""

    def ranks(geometry: Geometry) -> Ranks:
        keep = float(1 - Fraction(fraction))
        uniform_ranks = uniform(CostModel(geometry), parse_budgets([f"block_params={keep}"]))
        assert uniform_ranks is not None
        return Ranks(*(tuple(rank // align * align for rank in uniform_ranks.of(c)) for c in COMPONENTS))

    return ranks


def parts(**ratios: str) -> Cut:
    """A ratio for each of qk, ov and mlp."""

    def ranks(geometry: Geometry) -> Ranks:
        return Ranks(
            *(tuple([floored(geometry, c, Fraction(ratios[c]))] * geometry.layers) for c in COMPONENTS)
        )

    return ranks


CUTS: dict[str, Cut] = {
    "10 %": removed("0.1"),
    "10 %, multiples of 8": removed("0.1", align=8),
    "20 %": removed("0.2"),
    "40 %": removed("0.4"),
    "QK .6 OV .8 MLP .8": parts(qk="0.6", ov="0.8", mlp="0.8"),
}
EAGER_CUTS = ("10 %", "40 %")
