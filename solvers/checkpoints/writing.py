"""Write compressed checkpoints that load elsewhere.

*compact*: every tensor at its planned size; the folder carries ``modeling_rankalloc.py``, so plain transformers loads it with
``trust_remote_code=True``, and an installation of this package without. *padded*: the source's own class and sizes, dropped
dimensions as zeros; the same function, nothing saved. *stock*: the source's own class with another size of MLP, where that is
all that a plan changes.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from solvers import modeling_rankalloc
from solvers.checkpoints.companions import companions
from solvers.checkpoints.head_sizes import Rule, everywhere, per_layer_config
from solvers.checkpoints.old_keys import WITHOUT_CODE, add_old_keys
from solvers.checkpoints.stored_types import own_types
from solvers.checkpoints.tokenizer_class import written_options
from solvers.model.padding import padded_weights
from solvers.model.rounding import MATRICES, held
from solvers.model.surgery import OpenModel
from solvers.weights import LayerWeights

FILE_BYTES = 2 << 30
"""Largest file of a compact checkpoint, where no single tensor is larger."""


def stored(weights: LayerWeights, dtype: torch.dtype, bits: Mapping[str, int] | None = None) -> LayerWeights:
    """The weights as they will be after a round trip through the checkpoint's type, and quantization to ``bits`` per component
    where there are some.
    """
    rounded = weights.to(dtype=dtype)
    return held(rounded, bits) if bits else rounded.to(dtype=torch.float32)


def held_in(
    bits: Sequence[Mapping[str, int]], dtype: torch.dtype
) -> Callable[[int, LayerWeights], LayerWeights]:
    """(layer, its weights) -> what the layer computes with once it is stored and quantized to its ``bits``; the very weights
    where it has none. For ``solvers.a3.feedback.compress_with_feedback``.
    """
    return lambda layer, weights: stored(weights, dtype, bits[layer]) if bits[layer] else weights


def write_compact(
    opened: OpenModel,
    layers: Sequence[LayerWeights],
    folder: Path,
    *,
    source: Path,
    dtype: torch.dtype,
    bits: Sequence[Mapping[str, int]] = (),
    head_size: Rule = everywhere,
) -> None:
    """Write the compact export of ``layers`` into the empty folder ``folder``, file by file and layer by layer.

    Beside ``layers`` one layer in the model's own type and one file's tensors are in memory.

    Args:
        opened: the dense model; its embeddings, norms and head are taken as they are. Its layers are dense afterwards.
        source: the model folder that ``opened`` was read from, whose companions travel along. What it stores in another type
            than its layers' matrices is written in that type.
        bits: of every layer, component -> the bits that its weights are to be held in; the config names them, and
            ``solvers.quantization.weight_only`` reads them there.
        head_size: rank -> the size per head that a serving engine gives a layer's keys and values, whichever is larger
            (``solvers.checkpoints.head_sizes``); the config names it, and nothing else depends on it.
    """
    config_class, model_class = opened.family.compact
    dense_neurons = opened.family.mlp_options(opened.config)["rank"]
    sizes = [  # in one walk: each layer may be read from a file for it
        (
            layer.qk_rank,
            layer.ov_rank,
            layer.mlp_rank or dense_neurons,
            _pairs(layer),
            layer.joint,
            layer.query_latent,
        )
        for layer in layers
    ]
    names = ("qk_ranks", "ov_ranks", "mlp_ranks", "qk_pairs", "ov_joint", "query_latents")
    ranks: dict[str, Any] = dict(zip(names, map(list, zip(*sizes, strict=True)), strict=True))
    if not opened.family.rotary_pairs(opened.config):
        del ranks["qk_pairs"]
    for name in ("ov_joint", "query_latents"):
        if not any(ranks[name]):
            del ranks[name]
    if any(bits):
        for component in MATRICES:
            ranks[f"{component}_bits"] = [row.get(component) for row in bits]
    plain = {
        k: v
        for k, v in opened.config.to_dict().items()
        if k not in ("model_type", "architectures", "auto_map", "dtype")
    }
    windows = opened.family.geometry(opened.config)["windows"]
    by_layer = per_layer_config(ranks["qk_ranks"], ranks["ov_ranks"], head_size, windows)
    config = config_class(**plain, **ranks, per_layer_config=by_layer)
    module = modeling_rankalloc.__name__.rpartition(".")[2]
    config.auto_map = {
        "AutoConfig": f"{module}.{config_class.__name__}",
        "AutoModel": f"{module}.{modeling_rankalloc.BARE[opened.family.model_type].__name__}",
        "AutoModelForCausalLM": f"{module}.{model_class.__name__}",
    }
    config.architectures = [model_class.__name__]
    config.dtype = str(dtype).removeprefix("torch.")
    with torch.device("meta"):
        skeleton = model_class(config).to(dtype)
    parameters = dict(skeleton.named_parameters(remove_duplicate=False))
    for name, own in own_types(source, parameters).items():
        parameters[name].data = parameters[name].data.to(own)
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    add_old_keys(folder, config, str(dtype).removeprefix("torch."), **WITHOUT_CODE)
    skeleton.generation_config.save_pretrained(folder)
    _write_tensors(opened, layers, folder, skeleton)
    shutil.copyfile(str(modeling_rankalloc.__file__), folder / f"{module}.py")
    _copy_companions(source, folder, opened.family.model_type, compact=True)


def _pairs(layer: LayerWeights) -> int:
    return 0 if layer.pairs is None else layer.pairs.shape[1]


def _write_tensors(opened: OpenModel, layers: Sequence[LayerWeights], folder: Path, skeleton: Any) -> None:
    """Write every tensor that ``skeleton`` promises, in its sizes and types.

    Raises:
        RuntimeError: the model's tensors are not the promised ones.
    """
    # Tied tensors are one parameter, which is listed once.
    aliases = (
        dict(skeleton.named_parameters(remove_duplicate=False)).keys()
        - dict(skeleton.named_parameters()).keys()
    )
    promised = {name: tensor for name, tensor in skeleton.state_dict().items() if name not in aliases}
    prefix = f"{opened.family.architecture.layers}."
    outer = {
        name: tensor for name, tensor in opened.model.state_dict().items() if not name.startswith(prefix)
    }
    state: dict[str, torch.Tensor] = {}
    current = -1

    def tensor(name: str) -> torch.Tensor:
        nonlocal state, current
        if not name.startswith(prefix):
            value = outer[name]
        else:
            number, _, inner = name.removeprefix(prefix).partition(".")
            if int(number) != current:
                if current >= 0:
                    opened.release(current)
                current = int(number)
                opened.put(current, layers[current])
                state = opened.family.layers(opened.model)[current].state_dict()
            value = state[inner]
        target = promised[name]
        if value.shape != target.shape:
            raise RuntimeError(f"{name}: {tuple(value.shape)} was found, {tuple(target.shape)} promised")
        return value.to(device="cpu", dtype=target.dtype, copy=True)

    split = split_torch_state_dict_into_shards(promised, max_shard_size=FILE_BYTES)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensor(name) for name in names}, folder / file, metadata={"format": "pt"})
    if current >= 0:
        opened.release(current)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_padded(
    opened: OpenModel, layers: Sequence[LayerWeights], folder: Path, *, source: Path, dtype: torch.dtype
) -> None:
    """Write the padded export: the stock class with the source's own config, whose layers are in memory in ``dtype``. Tensors
    that the source stores in another type than its layers' matrices keep theirs.
    """
    _write_source_class(opened, layers, folder, source=source, dtype=dtype, mlp_rank=None)


def write_stock(
    opened: OpenModel, layers: Sequence[LayerWeights], folder: Path, *, source: Path, dtype: torch.dtype
) -> None:
    """Write the stock export: the source's own class, whose config has another size of MLP. In memory as *padded* is.

    Raises:
        ValueError: attention is cut, MLPs differ from layer to layer, or the family's config has no size of MLP.
    """
    (rank, *others) = {layer.mlp_rank for layer in layers}
    attention_is_dense = all(
        (layer.qk_rank, layer.ov_rank) == (opened.source[index].qk_rank,) * 2 and not layer.query_latent
        for index, layer in enumerate(layers)
    )
    if others or not attention_is_dense or opened.family.mlp_size is None:
        raise ValueError("a stock class has whole attention and one size of MLP")
    _write_source_class(opened, layers, folder, source=source, dtype=dtype, mlp_rank=rank)


def _write_source_class(
    opened: OpenModel,
    layers: Sequence[LayerWeights],
    folder: Path,
    *,
    source: Path,
    dtype: torch.dtype,
    mlp_rank: int | None,
) -> None:
    """The source's own class at its own sizes, or with MLPs of ``mlp_rank`` neurons (0: the family leaves them alone)."""
    config = copy.deepcopy(opened.config)
    if mlp_rank:
        assert opened.family.mlp_size is not None
        setattr(config, opened.family.mlp_size, mlp_rank)
    with torch.device("meta"):  # nothing is filled with random numbers only to be overwritten
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    stock = model.state_dict()
    # What happens to have its dense shape in a cut layer is overwritten with the rest of the layer.
    unchanged = {
        name: t
        for name, t in opened.model.state_dict().items()
        if name in stock and t.shape == stock[name].shape and not t.is_meta
    }
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, own in own_types(source, parameters).items():
        parameters[name].data = parameters[name].data.to(own)
    for index, weights in enumerate(layers):
        layer = opened.family.layers(model)[index].to_empty(device="cpu")
        prefix = f"{opened.family.architecture.layers}.{index}."
        inner = {
            name.removeprefix(prefix): unchanged.pop(name)
            for name in list(unchanged)
            if name.startswith(prefix)
        }
        layer.load_state_dict(inner, strict=False)
        grown = padded_weights(weights, opened.source[index], mlp=mlp_rank is None)
        opened.family.write_stock_layer(config, layer, grown)
    # Embeddings and head are mapped from the source's files where they are of its type: nothing is held twice.
    targets = model.state_dict()
    outer = {name: t.to(device="cpu", dtype=targets[name].dtype) for name, t in unchanged.items()}
    model.load_state_dict(outer, strict=False, assign=True)
    model.save_pretrained(folder)
    add_old_keys(folder, config, str(dtype).removeprefix("torch."))
    _copy_companions(source, folder, opened.family.model_type, compact=False)


def _copy_companions(source: Path, folder: Path, family: str, *, compact: bool) -> None:
    for name, file in companions(source, family).items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / name)
    options = written_options(source, family, compact=compact)
    (folder / "tokenizer_config.json").write_text(json.dumps(options, indent=2), encoding="utf-8")
