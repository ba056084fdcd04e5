"""Model folders as publishers wrote them, with tiny weights: every field and value of ``tests/assets/published`` but the sizes.

What is made smaller: layers, heads, widths, the vocabulary, and with it the ids of special tokens beyond it. Names of tensors,
their type and the constants that older exports hold beside them are as published too.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FOLDER = Path(__file__).parents[1] / "assets" / "published"
VOCABULARY = 320
"""Room for all bytes, some merges and the special tokens."""
WORDS = "the tokens of a text and more of the text"
TEXT = "the words of a text, and the other words of another text " * 20
_SENTENCEPIECE = ("LlamaTokenizer", "GemmaTokenizer")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")


@dataclass(frozen=True)
class Published:
    """What a repository holds, and where that was read."""

    name: str
    source: str
    config: dict[str, Any]
    generation_config: dict[str, Any] | None = None
    tokenizer_config: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None
    """``without``: a prefix that tensors' names lack; ``also``: name -> kind of constants that no current class loads."""

    @property
    def family(self) -> str:
        return str(self.config["model_type"])

    @property
    def stored(self) -> str:
        """The type of its tensors, by the key of transformers before 4.56 or of later ones."""
        return str(self.config.get("torch_dtype") or self.config.get("dtype") or "float32")


def published() -> list[Published]:
    """All of them, by family and name."""
    files = sorted(FOLDER.glob("*.json"))
    return [Published(name=name, **entry) for f in files for name, entry in json.loads(f.read_text()).items()]


def written(model: Published, folder: Path) -> Path:
    """The model's folder, in ``folder``, with weights by chance."""
    ids = _smaller_ids(model)
    config = _with_ids(shrunk(model.config), ids)
    _save_weights(model, config, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if model.generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(_with_ids(model.generation_config, ids)))
    options = dict(model.tokenizer_config or {})
    if "added_tokens_decoder" in options:
        added = options["added_tokens_decoder"].items()
        options["added_tokens_decoder"] = {str(ids.get(int(key), int(key))): token for key, token in added}
    if model.tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
    _tokenizer(options).save(str(folder / "tokenizer.json"))
    return folder


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with small sizes: as many queries per key/value head as published, up to eight, and heads of 8 dimensions,
    but of the published size where rotary positions have a factor for each of them."""
    found = dict(config)
    heads_key = next(key for key in _HEADS if key in config)
    heads, kv_heads = config[heads_key], config.get("num_key_value_heads", config[heads_key])
    width_key = next(key for key in _WIDTHS if key in config)
    published_size = config.get("head_dim") or config[width_key] // heads
    size = published_size if "short_factor" in (config.get("rope_scaling") or {}) else 8
    few = 4 if kv_heads == heads else min(heads // kv_heads, 8) * min(kv_heads, 2)
    found[heads_key] = few
    if "num_key_value_heads" in config:
        found["num_key_value_heads"] = 4 if kv_heads == heads else min(kv_heads, 2)
    own_size = bool(config.get("head_dim")) and heads * published_size != config[width_key]
    width = few * size + (8 if own_size else 0)
    for key in _WIDTHS:
        if key in config:  # OPT 350M's embeddings are half as wide as its layers
            found[key] = width if config[key] == config[width_key] else width // 2
    for key, value in {"head_dim": size, "intermediate_size": 40, "ffn_dim": 40, "n_inner": 40}.items():
        if config.get(key) is not None:
            found[key] = value
    # The sixth is Gemma 3's first without a window.
    layers = 6 if config["model_type"] == "gemma3_text" else 2
    for key in _LAYERS:
        if key in config:
            found[key] = layers
    if "layer_types" in config:
        found["layer_types"] = config["layer_types"][:layers]
    return found | {"vocab_size": VOCABULARY}


def _smaller_ids(model: Published) -> dict[int, int]:
    """Ids beyond the small vocabulary -> ids at its end."""
    found: set[int] = {int(key) for key in (model.tokenizer_config or {}).get("added_tokens_decoder", ())}
    for document in (model.config, model.generation_config or {}):
        for key, value in document.items():
            if key.endswith("_token_id"):
                found |= set(value) if isinstance(value, list) else {value} - {None}
    large = sorted(each for each in found if each >= VOCABULARY - len(found))
    return {each: VOCABULARY - len(large) + place for place, each in enumerate(large)}


def _with_ids(document: dict[str, Any], ids: dict[int, int]) -> dict[str, Any]:
    def smaller(value: Any) -> Any:
        return [smaller(each) for each in value] if isinstance(value, list) else ids.get(value, value)

    return {key: smaller(value) if key.endswith("_token_id") else value for key, value in document.items()}


def _tokenizer(options: dict[str, Any]) -> Tokenizer:
    """A byte-pair tokenizer of the kind that the class in tokenizer_config.json has, with the special tokens named there."""
    special = {int(key): token["content"] for key, token in options.get("added_tokens_decoder", {}).items()}
    implied = {} if options.get("tokenizer_class") else {"eos_token": "<|endoftext|>"}  # as GPT-2 does
    for name in ("unk_token", "bos_token", "eos_token", "pad_token"):
        token = options.get(name, implied.get(name))
        content = token["content"] if isinstance(token, dict) else token
        if content is not None and content not in special.values():
            special[next(n for n in range(VOCABULARY) if n not in special)] = content
    alike = options.get("tokenizer_class", "").removesuffix("Fast") in _SENTENCEPIECE
    letters = [f"<0x{n:02X}>" for n in range(256)] if alike else sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += sorted({"▁", *WORDS.replace(" ", "")} - set(letters)) if alike else []
    merges = [("t", "h"), ("th", "e"), ("▁" if alike else "Ġ", "the")]
    free = (n for n in range(VOCABULARY) if n not in special)
    words = [*letters, *(first + second for first, second in merges)]
    vocabulary = {word: next(free) for word in words} | {word: n for n, word in special.items()}
    unknown = options.get("unk_token")
    unknown = unknown["content"] if isinstance(unknown, dict) else unknown
    made = Tokenizer(
        models.BPE(
            vocabulary, merges, byte_fallback=alike, fuse_unk=alike, unk_token=unknown if alike else None
        )
    )
    if alike:
        steps = [normalizers.Replace(" ", "▁")]
        made.normalizer = normalizers.Sequence(
            steps if options["tokenizer_class"].startswith("Gemma") else [normalizers.Prepend("▁"), *steps]
        )
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    made.add_special_tokens([special[n] for n in sorted(special)])
    return made


def _save_weights(model: Published, config: dict[str, Any], folder: Path) -> None:
    """model.safetensors by the names that the publisher's file has."""
    torch.manual_seed(0)
    stored = getattr(torch, model.stored)
    stock = CONFIG_MAPPING[model.family].from_dict(copy.deepcopy(config))  # which it changes
    AutoModelForCausalLM.from_config(stock, dtype=stored).save_pretrained(folder)
    form, file = model.weights or {}, folder / "model.safetensors"
    layers = next(config[key] for key in _LAYERS if key in config)
    tensors = {name.removeprefix(form.get("without", "")): tensor for name, tensor in load_file(file).items()}
    for name, kind in form.get("also", {}).items():
        tensors |= {name.format(layer=layer): _constant(kind) for layer in range(layers)}
    save_file(tensors, file, metadata={"format": "pt"})


def _constant(kind: str) -> torch.Tensor:
    if kind == "mask":
        return torch.ones(1, 1, 16, 16).tril()
    return torch.tensor(-1e9) if kind == "scalar" else torch.ones(4)


def a_vocabulary_and_merges(folder: Path) -> Tokenizer:
    """Put vocab.json and merges.txt, of fewer than 290 tokens, in the place of a folder's tokenizer.json; their tokenizer."""
    (folder / "tokenizer.json").unlink()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    made.train_from_iterator([TEXT], trainer)
    made.model.save(str(folder))
    return made
