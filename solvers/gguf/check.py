"""A check that a model's compression can be written as GGUF, before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solvers.gguf.architectures import architecture_of, shape_of
from solvers.gguf.hyperparameters import check_config
from solvers.gguf.rope import rope_of
from solvers.gguf.vocabulary import read_vocabulary


def check(folder: Path, config: Any) -> None:
    """Refuse a model whose compression could not be written, whatever its ranks.

    Args:
        folder: the model folder, for its tokenizer.
        config: a stock config, or a compact one.

    Raises:
        UnsupportedModelError: llama.cpp lacks something of it; one line says what.
        UnreadableModelError: tokenizer.json is none.
    """
    shape = shape_of(config)
    check_config(config, shape)
    rope_of(config, shape, architecture_of(shape))
    read_vocabulary(folder, config)
