"""Checkpoints as GGUF files that stock llama.cpp loads: no code of ours is needed there.

llama.cpp has no mixed ranks, but some of its graphs are that of a family with one size or another left free (`architectures`).
What none of them can say is refused, before anything is measured: `allocator.plan.targets.llama_cpp` by sizes alone, `check`
by the config and the tokenizer too.
"""

from __future__ import annotations

from solvers.gguf.check import check
from solvers.gguf.files import FILES, write_gguf

__all__ = ["FILES", "check", "write_gguf"]
