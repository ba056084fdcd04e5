"""Refuse what would have transformers load something else than the weights that are named, checked and hashed here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

from solvers.checkpoints.shards import headers, shards_of
from solvers.errors import UnsupportedModelError
from solvers.folder import called

_IMPLEMENTATIONS = (
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "grouped_mm",
    "batched_mm",
)
"""Implementations that configs in the world name and that are no names of repositories; ours is set in their place."""
_GENERATION = frozenset(GenerationConfig().to_dict())
"""Keys of defaults for ``generate``, which older configs keep beside the sizes: no value of theirs is fetched or run."""
_DISTRIBUTED = re.compile(r"shard-[0-9]+-model-[0-9]+-of-[0-9]+\.safetensors$")


def weight_files(
    folder: Path, config: dict[str, Any], *, if_quantized: str
) -> tuple[tuple[Path, ...], dict[str, list[int]], dict[str, str]]:
    """The files that hold a folder's weights, with the shapes and storage types of ``solvers.checkpoints.shards.headers``.

    Args:
        config: of config.json.
        if_quantized: the sentence that refuses quantized weights, behind the folder's name.

    Raises:
        UnreadableModelError: a file is missing or not sound.
        UnsupportedModelError: the config or a file leads to other weights or to code, or the weights are quantized.
    """
    _refuse_detours(folder, config)
    if config.get("quantization_config") is not None:
        raise UnsupportedModelError(f"{called(folder)}: {if_quantized}")
    shards = shards_of(folder)
    return shards, *headers(folder, shards)


def _refuse_detours(folder: Path, config: dict[str, Any]) -> None:
    """Raises UnsupportedModelError, which names the key or the file."""
    for key, value in config.items():
        if "implementation" not in key or key in _GENERATION:
            continue
        if not (value is None or isinstance(value, bool) or value in _IMPLEMENTATIONS):
            raise UnsupportedModelError(
                f"{called(folder)}: config.json asks for code of another repository ({key}), which is never run"
            )
    cache = config.get("cache_implementation")
    if cache is not None and cache not in ALL_CACHE_IMPLEMENTATIONS:
        raise UnsupportedModelError(
            f"{called(folder)}: config.json: cache_implementation {cache!r} is no kind of cache;"
            f" remove the key, or use one of {', '.join(ALL_CACHE_IMPLEMENTATIONS)}"
        )
    if "transformers_weights" in config:
        raise UnsupportedModelError(
            f"{called(folder)}: config.json redirects the weights (transformers_weights); remove that key"
        )
    for file in folder.iterdir():
        if file.name == "adapter_config.json":
            raise UnsupportedModelError(
                f"{called(folder)}: holds an adapter (adapter_config.json); merge it into the weights first, or remove it"
            )
        if _DISTRIBUTED.match(file.name):
            raise UnsupportedModelError(
                f"{called(folder)}: {file.name} is of a distributed checkpoint, which would be loaded in place of the"
                " other files; consolidate it, or remove it"
            )
