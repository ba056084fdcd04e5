"""Models whose tensors are of several types: the layers' matrices are of one, others such as norms may have their own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from solvers.checkpoints.shards import headers, places_of, shards_of
from solvers.checkpoints.sizes import LAYER
from solvers.errors import UnsupportedModelError
from solvers.folder import called
from solvers.weights import LayerWeights

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ONE_TYPE = 'convert all to one: AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(another)'


def the_dtype(folder: Path, shapes: Mapping[str, Sequence[int]], types: Mapping[str, str]) -> torch.dtype:
    """The type of most numbers in the layers' matrices. Raises UnsupportedModelError."""
    kinds = set(types.values())
    if not kinds or not kinds <= _DTYPES.keys():
        raise UnsupportedModelError(
            f"{called(folder)}: weights are stored as {', '.join(sorted(kinds)) or 'nothing'};"
            f" allowed are {', '.join(_DTYPES)}"
        )
    counts: Counter[str] = Counter()
    for name, kind in types.items():
        counts[kind] += math.prod(shapes[name]) if LAYER.search(name) and len(shapes[name]) > 1 else 0
    return _DTYPES[counts.most_common(1)[0][0]]


def own_types(folder: Path, names: Iterable[str]) -> dict[str, torch.dtype]:
    """Those of a model's parameters that its folder stores in another type than the layers' matrices, such as norms.

    Args:
        names: the parameters' names in the model; in the file the base model's prefix may be absent, or there beside.

    Raises:
        UnsupportedModelError: a tensor of another type has another name once it is loaded.
    """
    return {name: _DTYPES[kind] for name, (_, kind) in _others(folder, names).items()}


def _others(folder: Path, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Parameter -> its tensor's name and type in the files, where that is not the type of the layers' matrices."""
    shapes, types = headers(folder, shards_of(folder))
    usual = the_dtype(folder, shapes, types)
    others = {name: kind for name, kind in types.items() if _DTYPES[kind] != usual}
    if not others:
        return {}
    parameters = list(names)
    bare = {name.partition(".")[2]: name for name in parameters if name.count(".") > 1} | {
        n: n for n in parameters
    }
    tensors = {}
    for tensor, kind in others.items():
        name = bare.get(tensor) or bare.get(tensor.partition(".")[2])
        if name is None:
            raise UnsupportedModelError(
                f"{called(folder)}: {tensor} is stored as {kind} beside {_NAMES[usual]}, and is no parameter by that name;"
                f" {_ONE_TYPE}"
            )
        tensors[name] = (tensor, kind)
    return tensors


def keep_types(model: Any, folder: Path) -> None:
    """Give a model that was loaded in the type of its layers' matrices those tensors in their own that have another.

    Raises:
        UnsupportedModelError: one of them has another name once it is loaded.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    others = _others(folder, parameters)
    if not others:
        return
    places = places_of(shards_of(folder))
    for name, (tensor, _) in others.items():
        with safe_open(places[tensor], framework="pt") as file:
            parameters[name].data = file.get_tensor(tensor)


def check_layers(folder: Path, layers: Iterable[LayerWeights], usual: torch.dtype) -> None:
    """Raises UnsupportedModelError where what is compressed of a layer is of another type than ``usual``."""
    for index, weights in enumerate(layers):
        tensors = weights.tensors().values()
        kinds = {_NAMES[tensor.dtype] for tensor in tensors if tensor.is_floating_point()}
        if kinds != {_NAMES[usual]}:
            raise UnsupportedModelError(
                f"{called(folder)}: layer {index}: attention and MLP are stored as {', '.join(sorted(kinds))}"
                f" among weights in {_NAMES[usual]}; {_ONE_TYPE}"
            )
