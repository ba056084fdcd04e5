"""Tiny models with real tokenizers, compressed to given ranks and written as GGUF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored, write_compact
from solvers.model.surgery import open_model
from tests.support.models import tiny, token_ids

VOCAB = 320
BOS = "<|bos|>"
LINES = [
    "def main(self, name):\n    return self.name if name is None else name.lower()\n",
    "It's 12 o'clock, and we've 3,456.78 things to do; don't you?\n\n",
    "Grüße aus Köln: naïve café, 東京 and Москва 🚀🚀\n\t\tindented  twice   thrice\r\n",
]
TEXT = "".join(LINES) + "  They'll cost $99999, I'M SURE!!! x=y+1  \n\n\n<|bos|>tail"
"""What tokenizers are compared on: none of it is whole words of theirs."""

SHARP = 1.5
"""What queries and keys are made larger by: attention of such models looks at few tokens, so that positions matter."""
Rows = Sequence[dict[str, int]]


def bytewise(
    *cuts: Any, prefix: str | None = None, ignore_merges: bool = False, vocab: int = VOCAB
) -> Tokenizer:
    """A byte-level tokenizer that cuts texts so, trained on a few lines; ``prefix``: a token in front of every text."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    whole = not cuts or isinstance(cuts[-1], pre_tokenizers.Digits)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=whole)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, last]) if cuts else last
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, vocab=vocab, special_tokens=[BOS], initial_alphabet=alphabet)
    return _with_prefix(tokenizer, prefix)


def split(regex: str) -> Any:
    """A cut by a regular expression."""
    return pre_tokenizers.Split(Regex(regex), "isolated")


def spaced(*, space_in_front: bool) -> Tokenizer:
    """A tokenizer as transformers makes one of a SentencePiece BPE: bytes where a character is unknown, and every pair that
    makes a token listed, those of the best token first.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    _train(trained, special_tokens=[], limit_alphabet=60, vocab=VOCAB - 259)
    found = json.loads(trained.to_str())["model"]["vocab"]
    pieces = sorted(found, key=found.__getitem__)
    special = ["<unk>", "<s>", "</s>"]
    vocab = {t: n for n, t in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])}
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    parts = [normalizers.Prepend("▁")] if space_in_front else []
    tokenizer.normalizer = normalizers.Sequence([*parts, normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(special)
    return _with_prefix(tokenizer, "<s>")


def _train(tokenizer: Tokenizer, *, vocab: int = VOCAB, **options: Any) -> None:
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, **options)
    tokenizer.train_from_iterator(LINES * 20, trainer)


def _with_prefix(tokenizer: Tokenizer, prefix: str | None) -> Tokenizer:
    if prefix is not None:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single=f"{prefix} $A", special_tokens=[(prefix, tokenizer.token_to_id(prefix))]
        )
    return tokenizer


def source(folder: Path, family: str, tokenizer: Tokenizer | None = None, **options: Any) -> Path:
    """A tiny model's folder, with its tokenizer."""
    model = tiny(family, vocab_size=VOCAB, **options).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(SHARP if "q_proj" in name or "k_proj" in name else 0.3)
    model.save_pretrained(folder)
    tokenizer = tokenizer or bytewise()
    tokenizer.save(str(folder / "tokenizer.json"))
    bos = BOS if tokenizer.token_to_id(BOS) is not None else "<s>"
    options = {"bos_token": bos, "eos_token": bos, "chat_template": "{{ messages[0]['content'] }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def compact(source: Path, folder: Path, rows: Rows) -> Path:
    """The compact checkpoint of a model folder at these ranks, in float16."""
    opened = open_model(reading.load(reading.inspect(source)))
    ids = token_ids(4, 40, vocab=VOCAB)
    layers = [
        stored(solve_layer(opened.source[index], found).compressed(**row), torch.float16).to(
            dtype=torch.float16
        )
        for (index, found), row in zip(enumerate(moments.collect(opened, ids)), rows, strict=True)
    ]
    folder.mkdir()
    write_compact(opened, layers, folder, source=source, dtype=torch.float16)
    return folder


def not_ascii(folder: Path) -> list[int]:
    """Tokens of a checkpoint whose text is more than ASCII, or none by itself."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return [index for token, index in vocab.items() if not token.replace("Ġ", " ").isascii()]


@torch.no_grad()
def log_probabilities(folder: Path, ids: list[int]) -> torch.Tensor:
    """(T, V) of what transformers makes of a checkpoint, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    found: torch.Tensor = model.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
    return found
