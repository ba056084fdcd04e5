"""All targets. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from allocator.plan.targets import llama_cpp, vllm
from allocator.plan.targets.stock import Stock
from allocator.plan.targets.target import Target
from allocator.plan.targets.transformers import Transformers

PLAIN = Transformers()
"""Where none is named."""

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (PLAIN, vllm.GPU, vllm.CPU, llama_cpp.FreeMLP(), llama_cpp.SmallerValues(), Stock())
}
"""By name, in the order in which they are listed everywhere."""
