"""The models that come with the package: ``rankalloc demo`` compresses them, an empty installation offers one."""

from __future__ import annotations

MODELS = ("local:pylm-llama", "local:pylm-gpt2")
BUDGETS = ("block_params=0.8", "kv_bytes_per_token=0.75")
