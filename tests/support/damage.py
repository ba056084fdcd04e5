"""Ways in which a model folder can be wrong: each changes a copy of a bundled model in place."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "models"
LAYERS = 6
"""Of the model that is copied."""


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "pylm-llama", tmp_path / "model"))


def little_text(model: Path, calibration: int = 24_000) -> None:
    """So many characters of the calibration text, and a fifth of the evaluation text: what a test of real jobs can do with."""
    for name, characters in (("calibration.txt", calibration), ("evaluation.txt", 20_000)):
        text = (model / name).read_text(encoding="utf-8")
        (model / name).write_text(text[:characters], encoding="utf-8")


def first_layers(model: Path, count: int) -> None:
    """So many of its layers alone, which are trained: a profile takes a time that grows with their square."""
    from safetensors.torch import load_file, save_file

    change_config(model, num_hidden_layers=count)
    weights = load_file(model / "model.safetensors")
    layers = {name: int(name.split(".")[2]) for name in weights if name.startswith("model.layers.")}
    kept = {name: tensor for name, tensor in weights.items() if layers.get(name, 0) < count}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})


def brief(folder: Path, *, window: int, calibration: int = 24_000, layers: int = LAYERS) -> Path:
    """A copy with a context of ``window`` tokens and little text, so that a real job takes seconds; with ``layers`` it takes
    fewer.
    """
    model = copied(folder)
    change_config(model, max_position_embeddings=window)
    little_text(model, calibration)
    if layers < LAYERS:
        first_layers(model, layers)
    return model


def unknown_family(model: Path) -> None:
    change_config(model, model_type="mamba")


def change_config(model: Path, **changes: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))


def cut_weights(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])


def lying_header(model: Path) -> None:
    (model / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def second_truth(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors"}})
    )


def redirected_weights(model: Path) -> None:
    change_config(model, transformers_weights="other.safetensors")


def fewer_layers(model: Path) -> None:
    change_config(model, num_hidden_layers=3)


def absurd_layers(model: Path) -> None:
    change_config(model, num_hidden_layers=2_000_000_000)


def text_for_a_size(model: Path) -> None:
    change_config(model, hidden_size="x")


def no_heads(model: Path) -> None:
    change_config(model, num_attention_heads=0)


def uneven_heads(model: Path) -> None:
    change_config(model, num_key_value_heads=3)


def odd_heads(model: Path) -> None:
    change_config(model, head_dim=31)


def other_vocabulary(model: Path) -> None:
    change_config(model, vocab_size=500)


def wrong_intermediate(model: Path) -> None:
    change_config(model, intermediate_size=77)


def sliding(model: Path) -> None:
    change_config(model, sliding_window=128)


def strange_tokenizer_options(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("[]")


def escaping_index(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../secret.safetensors"}})
    )


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")


def linked_weights(model: Path) -> None:
    outside = model.parent / "elsewhere.safetensors"
    (model / "model.safetensors").rename(outside)
    (model / "model.safetensors").symlink_to(outside)


def empty_text(model: Path) -> None:
    (model / "calibration.txt").write_text(" \n")


def short_text(model: Path) -> None:
    (model / "evaluation.txt").write_text("def f():\n    return 1\n")


def binary_text(model: Path) -> None:
    (model / "calibration.txt").write_bytes(b"\xff\xfe" * 5000)


def no_text(model: Path) -> None:
    (model / "calibration.txt").unlink()


def age(path: Path, *, days: float = 365) -> None:
    """Have a file or folder look as if nobody had touched it for so long."""
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
