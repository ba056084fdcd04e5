"""One adapter per model family: where its weights are, how its config reads, how to run it in pieces.

``docs/how-to/add-a-family.md`` says what a new one needs.
"""

from __future__ import annotations

from solvers.families.base import Call, Family
from solvers.families.gpt import GPT2Family, GPTNeoXFamily
from solvers.families.llama import Gemma2Family, Gemma3Family, LlamaFamily, Qwen3Family
from solvers.families.mixtral import MixtralFamily
from solvers.families.mpt import MptFamily
from solvers.families.opt import OPTFamily
from solvers.families.phi3 import Phi3Family

__all__ = ["FAMILIES", "Call", "Family"]

_ADAPTERS: dict[str, type[Family]] = {
    "llama": LlamaFamily,
    "mistral": LlamaFamily,
    "qwen2": LlamaFamily,
    "qwen3": Qwen3Family,
    "gemma": LlamaFamily,
    "gemma2": Gemma2Family,
    "gemma3_text": Gemma3Family,
    "phi3": Phi3Family,
    "mixtral": MixtralFamily,
    "gpt2": GPT2Family,
    "gpt_neox": GPTNeoXFamily,
    "opt": OPTFamily,
    "mpt": MptFamily,
}

FAMILIES: dict[str, Family] = {name: adapter(name) for name, adapter in _ADAPTERS.items()}
"""Source ``model_type`` -> adapter. Our own compact checkpoints carry the prefix ``rankalloc_``."""
