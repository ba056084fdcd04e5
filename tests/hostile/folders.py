"""Model folders made on purpose: each way changes a copy of a bundled model in place, with what the refusal says."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.damage import change_config

Harm = Callable[[Path], None]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def parts(model: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of the model's only safetensors file."""
    data = (model / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put(model: Path, header: Any, data: bytes, *, sparse_bytes: int = 0) -> None:
    """Write the file anew; ``sparse_bytes`` are behind the data and take no place on the disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with (model / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
        file.truncate(file.tell() + sparse_bytes)


def names(header: dict[str, Any]) -> list[str]:
    return sorted(name for name in header if name != "__metadata__")


def header(change: Callable[[dict[str, Any], list[str]], None]) -> Harm:
    def harm(model: Path) -> None:
        found, data = parts(model)
        change(found, names(found))
        put(model, found, data)

    return harm


def raw_header(make: Callable[[dict[str, Any]], bytes]) -> Harm:
    def harm(model: Path) -> None:
        found, data = parts(model)
        put(model, make(found), data)

    return harm


def entry(**changes: Any) -> Harm:
    return header(lambda found, order: found[order[0]].update(changes))


def offsets(change: Callable[[list[int]], list[int]]) -> Harm:
    return header(
        lambda found, order: found[order[0]].update(data_offsets=change(found[order[0]]["data_offsets"]))
    )


def _overlapping(found: dict[str, Any], order: list[str]) -> None:
    found[order[1]] = found[order[0]]


def _twice(found: dict[str, Any]) -> bytes:
    first = names(found)[0]
    return f"{json.dumps(found)[:-1]}, {json.dumps(first)}: {json.dumps(found[first])}}}".encode()


def _many(found: dict[str, Any]) -> bytes:
    end = max(each["data_offsets"][1] for name, each in found.items() if name != "__metadata__")
    empty = {"dtype": "BF16", "shape": [0], "data_offsets": [end, end]}
    return json.dumps({**found, **{f"z{n}": empty for n in range(300_000)}}).encode()


def _renamed(name: str) -> Harm:
    def change(found: dict[str, Any], order: list[str]) -> None:
        found[name] = found.pop(order[-1])

    return header(change)


def sparse(model: Path) -> None:
    """200 GB of tensor in a file that takes none of the disk."""
    found, data = parts(model)
    size = 10**8 * 2048
    found["model.layers.0.evil"] = {
        "dtype": "BF16",
        "shape": [10**8, 1024],
        "data_offsets": [len(data), len(data) + size],
    }
    put(model, found, data, sparse_bytes=size)


def weight(value: float, number: int) -> Harm:
    def harm(model: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(model / WEIGHTS)
        tensors[sorted(tensors)[number]].view(-1)[7] = value
        save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})

    return harm


HEADERS: dict[str, tuple[Harm, str]] = {
    "offsets beyond the file": (offsets(lambda at: [at[0], at[1] + 10**9]), "no sound|not a sound"),
    "negative offset": (offsets(lambda at: [-8, at[1]]), "not a sound"),
    "offsets back to front": (offsets(lambda at: at[::-1]), "not a sound"),
    "overlapping tensors": (header(_overlapping), "not a sound"),
    "gigantic length": (
        lambda m: (m / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}"),
        "header too large",
    ),
    "99 MiB of header": (raw_header(lambda _: b"{" + b" " * (99 << 20) + b"}"), "header"),
    "one name twice": (raw_header(_twice), "is there twice"),
    "300,000 tensors": (raw_header(_many), "at most 16777216 are read"),
    "another type's size": (entry(dtype="F64"), "not a sound"),
    "unknown type": (entry(dtype="Q9"), "not a sound"),
    "shape product overflow": (entry(shape=[2**33, 2**33]), "overflow"),
    "negative shape": (entry(shape=[-1, 5]), "not a sound"),
    "header nested 100,000 deep": (
        raw_header(lambda _: b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "recursion",
    ),
    "control characters in a name": (_renamed("evil\0\x1b[2J\n"), r"evil\\x00\\x1b\[2J\\n|missing"),
    "a name of a megabyte": (_renamed("x" * 10**6), "missing|not part"),
    "layer 999...": (_renamed(f"model.layers.{'9' * 5000}.x"), "missing|layers|not part|4300 digits"),
    "200 GB that are not there": (sparse, "not a sound|not part of this model"),
    "NaN": (weight(float("nan"), 5), "layers.0.post_attention_layernorm.weight holds NaN"),
    "infinite": (weight(float("-inf"), 2), "layers.0.mlp.down_proj.weight holds NaN or infinite"),
    "weights that overflow": (weight(3e38, 5), "layer 0: .* is not finite on the calibration text"),
}


def config(**changes: Any) -> Harm:
    return lambda model: change_config(model, **changes)


def config_text(text: str) -> Harm:
    def harm(model: Path) -> None:
        (model / "config.json").write_text(text)

    return harm


def replaced(name: str, make: Callable[[Path], None]) -> Harm:
    def harm(model: Path) -> None:
        (model / name).unlink()
        make(model / name)

    return harm


CONFIGS: dict[str, tuple[Harm, str]] = {
    "10^9 layers": (config(num_hidden_layers=10**9), "1000000000 layers, the weights hold 6"),
    "hidden 0": (config(hidden_size=0), "hidden_size is 0"),
    "hidden negative": (config(hidden_size=-128), "hidden_size is -128"),
    "hidden of 400 digits": (config(hidden_size=10**400), "no multiple|hidden"),
    "hidden of 5000 digits": (
        config_text(f'{{"model_type": "llama", "hidden_size": {"9" * 5000}}}'),
        "4300 digits",
    ),
    "hidden as text": (config(hidden_size="128"), "hidden_size is '128'"),
    "hidden as a list": (config(hidden_size=[128]), "hidden_size is"),
    "heads that do not divide": (config(num_attention_heads=7), "cannot share"),
    "intermediate 10^9": (config(intermediate_size=10**9), "other sizes"),
    "vocabulary 10^12": (config(vocab_size=10**12), "1000000000000"),
    "head_dim 10^9": (config(head_dim=10**9), "head_dim 1000000000"),
    "family as a list": (config(model_type=["llama"]), "is not supported"),
    "family as an object": (config(model_type={"llama": 1}), "is not supported"),
    "family with escapes": (config(model_type="\x1b[2J"), "is not supported"),
    "layer kinds as lists": (config(layer_types=[["full_attention"]] * 6), "a layer of kind"),
    "norm NaN": (config(rms_norm_eps=float("nan")), "no finite number"),
    "norm 1e999": (config_text('{"model_type": "llama", "rms_norm_eps": 1e999}'), "no finite number"),
    "infinite rotation": (config(rope_theta=float("inf")), "no finite number"),
    "a key twice": (config_text('{"model_type": "llama", "model_type": "gpt2"}'), "is there twice"),
    "code, of an unknown family": (
        config(model_type="evil", auto_map={"AutoConfig": "evil.Config"}),
        "'evil' is not supported",
    ),
    "code that is no name": (config(auto_map=5), "does not load"),
    "a kernel of the hub": (config(_attn_implementation="evil/kernel"), "code of another repository"),
    "a kernel of the hub, named plainly": (
        config(attn_implementation="evil/k:f"),
        "code of another repository",
    ),
    "a class of Python's": (config(hidden_act="os.system"), "does not load"),
    "quantized": (config(quantization_config={"quant_method": "evil"}), "quantized"),
    "weights elsewhere": (config(transformers_weights="/etc/passwd"), "redirects the weights"),
    "nested 10,000 deep": (config_text('{"x":' + "[" * 10**4 + "]" * 10**4 + "}"), "not valid JSON"),
    "100 MB": (config_text('{"model_type": "' + "x" * 10**8 + '"}'), "larger than 1048576 bytes"),
    "lone surrogate": (config_text('{"model_type": "\\ud800"}'), "is not supported"),
    "no UTF-8": (lambda m: (m / "config.json").write_bytes(b'{"model_type": "\xff"}'), "not valid JSON"),
    "a folder": (replaced("config.json", Path.mkdir), "config.json is missing"),
    "a link to itself": (replaced("config.json", lambda p: p.symlink_to(p.name)), "config.json is missing"),
    "a pipe": (replaced("config.json", os.mkfifo), "config.json is missing"),
    "a device": (replaced("config.json", lambda p: p.symlink_to("/dev/zero")), "config.json is missing"),
    "a link outside": (
        replaced("config.json", lambda p: p.symlink_to("/etc/hostname")),
        "leaves the model folder",
    ),
}


def index(files: Any) -> Harm:
    def harm(model: Path) -> None:
        (model / WEIGHTS).rename(model / "a.safetensors")
        (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))

    return harm


def _one_tensor_in_two_files(model: Path) -> None:
    index({"x": "a.safetensors", "y": "b.safetensors"})(model)
    os.link(model / "a.safetensors", model / "b.safetensors")


INDEXES: dict[str, tuple[Harm, str]] = {
    "a way up": (index({"x": "../x.safetensors"}), "not a bare name"),
    "absolute": (index({"x": "/etc/passwd"}), "not a bare name"),
    "missing": (index({"x": "b.safetensors"}), "b.safetensors is missing"),
    "percent-encoded": (index({"x": "%2e%2e%2fx.safetensors"}), "is missing"),
    "backslashes": (index({"x": "..\\x.safetensors"}), "is missing"),
    "letters that look like dots": (index({"x": "．．／x.safetensors"}), "is missing"),
    "NUL": (index({"x": "a.safetensors\0"}), "is missing"),
    "5000 letters": (index({"x": "a" * 5000}), "not a bare name"),
    "lone surrogate": (index({"x": "\ud800.safetensors"}), "is missing"),
    "another file": (index({"x": "config.json"}), "config.json is not a sound safetensors file"),
    "numbers": (index({"x": 5}), "no usable weight_map"),
    "lists": (index({"x": ["a.safetensors"]}), "no usable weight_map"),
    "nothing": (index({}), "no usable weight_map"),
    "100,000 files": (index({str(n): f"{n}.safetensors" for n in range(10**5)}), "is missing"),
    "one tensor in two files": (_one_tensor_in_two_files, "and in another file"),
}


def _distributed(model: Path) -> None:
    """A name by which transformers loads every safetensors file of the folder in place of the one that is named."""
    os.link(model / WEIGHTS, model / "shard-00000-model-00001-of-00001.safetensors")
    (model / "z.safetensors").symlink_to("/etc/hostname")


def _adapter(base: str) -> Harm:
    """What peft finds by its name, and transformers loads without being asked."""

    def harm(model: Path) -> None:
        found = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": base}
        (model / "adapter_config.json").write_text(json.dumps(found))

    return harm


DETOURS: dict[str, tuple[Harm, str]] = {
    "a distributed checkpoint beside": (_distributed, "of a distributed checkpoint"),
    "an adapter beside": (_adapter("."), "holds an adapter"),
    "an adapter of another model": (_adapter("/etc"), "holds an adapter"),
    "weights in a subfolder": (config(transformers_weights="sub/x.safetensors"), "redirects the weights"),
}
"""Ways in which something else would be loaded than what is looked at and hashed."""
