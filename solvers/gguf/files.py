"""Write a compact checkpoint as GGUF files, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    MODEL_TENSOR,
    TENSOR_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quants,
)
from safetensors import safe_open

from solvers import modeling_rankalloc as modeling
from solvers.errors import UnsupportedModelError
from solvers.folder import CONFIG_LIMIT_BYTES, read_json
from solvers.gguf.architectures import GEMMAS, INTERLEAVED, Shape, architecture_of, shape_of
from solvers.gguf.hyperparameters import add_hyperparameters, check_config, query_factor
from solvers.gguf.rope import Rope, rope_of
from solvers.gguf.vocabulary import Vocabulary, read_vocabulary

FILES: dict[str, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "model.gguf": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "model-q8_0.gguf": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
"""File -> the type of its matrices. Vectors are in float32; matrices whose rows are no whole blocks in float16."""

_Q, _K, _V = (f"self_attn.{name}_proj" for name in "qkv")


def write_gguf(compact: Path, folder: Path) -> None:
    """Write ``FILES`` of a compact checkpoint into the empty folder ``folder``.

    One tensor at a time is in memory.

    Raises:
        UnsupportedModelError: llama.cpp cannot say it, or half precision cannot hold it.
    """
    kind = read_json(compact, "config.json", CONFIG_LIMIT_BYTES)["model_type"]
    config_class, _ = modeling.COMPACT[kind.removeprefix(modeling.COMPACT_PREFIX)]
    checkpoint = _Checkpoint.read(compact, config_class.from_pretrained(compact))
    folder.mkdir(exist_ok=True)
    for name, (file_type, matrices) in FILES.items():
        checkpoint.write(folder / name, file_type, matrices)


@dataclass(frozen=True)
class _Tensor:
    """One of a file: its name, its shape as rows and columns, and how it is made."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]
    """In float32."""


@dataclass(frozen=True)
class _Checkpoint:
    compact: Path
    config: Any
    shape: Shape
    architecture: MODEL_ARCH
    rope: Rope
    vocabulary: Vocabulary
    places: dict[str, Path]
    """Tensor -> the file that it lies in."""

    @classmethod
    def read(cls, compact: Path, config: Any) -> _Checkpoint:
        shape = shape_of(config)
        check_config(config, shape)
        architecture = architecture_of(shape)
        places: dict[str, Path] = {}
        for path in sorted(compact.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        return cls(
            compact=compact,
            config=config,
            shape=shape,
            architecture=architecture,
            rope=rope_of(config, shape, architecture),
            vocabulary=read_vocabulary(compact, config),
            places=places,
        )

    def write(self, path: Path, file_type: LlamaFileType, matrices: GGMLQuantizationType) -> None:
        writer = GGUFWriter(path, self.architecture_name)
        writer.add_type("model")
        writer.add_file_type(file_type)
        writer.add_quantization_version(2)
        add_hyperparameters(writer, self.config, self.shape, self.architecture)
        self.rope.add_to(writer, self.shape, self.architecture)
        self.vocabulary.add_to(writer)
        tensors = [(tensor, _type(tensor.shape, matrices)) for tensor in self.tensors()]
        for tensor, kind in tensors:
            block, size = GGML_QUANT_SIZES[kind]
            writer.add_tensor_info(
                tensor.name,
                tensor.shape,
                np.dtype(np.float32),
                int(np.prod(tensor.shape)) // block * size,
                raw_dtype=kind,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in tensors:
            writer.write_tensor_data(_stored(tensor, kind))
        writer.close()

    @property
    def architecture_name(self) -> str:
        return MODEL_ARCH_NAMES[self.architecture]

    def tensors(self) -> Iterator[_Tensor]:
        """Every tensor of the file."""
        names = get_tensor_name_map(self.architecture, self.config.num_hidden_layers)
        if self.rope.factors is not None:
            factors = self.rope.factors
            yield _Tensor(f"{TENSOR_NAMES[MODEL_TENSOR.ROPE_FREQS]}.weight", factors.shape, lambda: factors)
        for name in self.places:
            if name.endswith("self_attn.pairs"):
                continue
            if self.architecture is MODEL_ARCH.OPENELM and f".{_Q}." in name:
                yield self._fused(name)
            elif self.architecture is not MODEL_ARCH.OPENELM or not any(
                f".{projection}." in name for projection in (_K, _V)
            ):
                gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
                assert gguf_name is not None, name
                yield _Tensor(gguf_name, self._size(name), partial(self._values, name))
        if self.architecture is MODEL_ARCH.STEP35 and "lm_head.weight" not in self.places:
            # It has no tied heads: the embeddings are in the file twice.
            name = "model.embed_tokens.weight"
            yield _Tensor(
                f"{TENSOR_NAMES[MODEL_TENSOR.OUTPUT]}.weight", self._size(name), partial(self._values, name)
            )

    def _fused(self, query: str) -> _Tensor:
        """Queries, keys and values as one matrix."""
        parts = [query.replace(_Q, projection) for projection in (_Q, _K, _V)]
        sizes = [self._size(part) for part in parts]
        layer = int(query.removeprefix("model.layers.").partition(".")[0])
        return _Tensor(
            f"{TENSOR_NAMES[MODEL_TENSOR.ATTN_QKV].format(bid=layer)}.weight",
            (sum(rows for rows, _ in sizes), sizes[0][1]),
            lambda: np.concatenate([self._values(part) for part in parts]),
        )

    def _size(self, name: str) -> tuple[int, ...]:
        with safe_open(self.places[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def _values(self, name: str) -> np.ndarray:
        """A tensor as the graph takes it, in float32."""
        with safe_open(self.places[name], framework="pt") as file:
            tensor = file.get_tensor(name).float()
        if self.shape.family in GEMMAS and name.endswith("norm.weight"):
            tensor = tensor + 1  # transformers adds it at every use
        factor = query_factor(self.config, self.shape, self.architecture)
        normed = f"{_Q.removesuffix('proj')}norm"
        scaled = normed if any(normed in place for place in self.places) else _Q
        if factor != 1 and f".{scaled}." in name:
            tensor = tensor * factor
        if self.architecture in INTERLEAVED and any(f".{projection}." in name for projection in (_Q, _K)):
            heads = self.shape.heads if f".{_Q}." in name else self.shape.kv_heads
            tensor = interleaved(tensor, heads)
        return tensor.contiguous().numpy()


def interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads r, ...) of queries or keys, or their biases, so that dimension j of a head's first half stands before that
    of its second.
    """
    halves = tensor.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).reshape(tensor.shape)


def _type(shape: tuple[int, ...], matrices: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    return matrices if shape[-1] % GGML_QUANT_SIZES[matrices][0] == 0 else GGMLQuantizationType.F16


def _stored(tensor: _Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    values = tensor.make()
    if kind is GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise UnsupportedModelError(f"gguf: {tensor.name} has values that float16 cannot hold")
    return quants.quantize(values, kind)
