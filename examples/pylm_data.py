"""Text, split, tokenizer and excerpts for the two trained examples.

The text is the standard library source of the Python that runs this file, so the same
interpreter version gives the same texts.  Files, never parts of one file, are dealt to
train / calibration / evaluation by a hash of their path relative to the library folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import sysconfig
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS = "<|bos|>"
BOS_ID = 0
VOCAB_SIZE = 2048
CALIBRATION_BYTES = 240_000
EVALUATION_BYTES = 100_000
EXCERPT_BYTES = 3_800

# Generated files and tables: they are data, not code, and a model learns little from them.
EXCLUDED = re.compile(
    r"(^|/)(site-packages|lib-dynload|__pycache__|config-[^/]*|pydoc_data)/"
    r"|^_sysconfigdata"
    r"|^encodings/(?!__init__|aliases|idna|punycode|utf_8|ascii|hex_codec|base64|quopri|zlib|bz2)"
    r"|^(html/entities|stringprep|re/_casefix|test/decimaltestdata|test/cjkencodings)"
)
MAX_DIGIT_SHARE = 0.15  # of the non-space characters of a file; above it the file is a table

# Pieces are lines: a newline keeps the indentation after it, and merges may cross words, so a token
# can be `\n        self.assertEqual(`.  Layout and set phrases then cost one token, which leaves the
# tokens that are hard to guess, and a window of 256 tokens holds more text.
SPLIT_PATTERN = r"\s*\n[ \t]*[^\n]*|[^\n]+"


def split_of(relative_path: str) -> str:
    """Return "train", "calibration" or "evaluation" for a path, by its hash (92 : 5 : 3)."""
    bucket = int.from_bytes(hashlib.sha256(relative_path.encode()).digest()[:4], "big") % 100
    return "evaluation" if bucket < 3 else "calibration" if bucket < 8 else "train"


def is_table(text: str) -> bool:
    """Tell whether a file is mostly numbers (a mapping or a data table)."""
    dense = "".join(text.split())
    return len(dense) > 2000 and sum(c.isdigit() for c in dense) > MAX_DIGIT_SHARE * len(dense)


def collect_files() -> dict[str, dict[str, str]]:
    """Return {split: {relative path: text}} for the standard library of this Python.

    Files that are not UTF-8, tables, generated files and exact copies of another file are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    splits: dict[str, dict[str, str]] = {"train": {}, "calibration": {}, "evaluation": {}}
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if EXCLUDED.search(name):
            continue
        try:
            text = path.read_bytes().decode("utf-8").replace("\r\n", "\n").strip() + "\n"
        except UnicodeDecodeError:
            continue
        if len(text) < 200 or text in seen or is_table(text):
            continue
        seen.add(text)
        splits[split_of(name)][name] = text
    return splits


def excerpt(name: str, text: str, size: int = EXCERPT_BYTES) -> str:
    """Return neighbouring whole functions of a file, `size` characters or a little more.

    The start is picked by the hash of the name among the places where a function or class begins,
    the end is the next such place; a passage without one is cut at twice the size.
    """
    starts = [m.start(1) for m in re.finditer(r"\n\n((?: {4})?(?:@|def |class |async def ))", text)]
    far_enough = [s for s in starts if s + size <= len(text)]
    if not far_enough:
        return text[: size * 2]
    begin = far_enough[int.from_bytes(hashlib.sha256(name.encode()).digest()[4:8], "big") % len(far_enough)]
    end = next((s for s in starts if s >= begin + size), len(text))
    return text[begin : min(end, begin + size * 2)].rstrip() + "\n"


def join_excerpts(files: dict[str, str], total: int) -> str:
    """Join one excerpt of each file, in hash order of the names, until `total` bytes are reached."""
    parts: list[str] = []
    length = 0
    for name in sorted(files, key=lambda n: hashlib.sha256(n.encode()).digest()):
        if length >= total:
            break
        parts.append(excerpt(name, files[name]))
        length += len(parts[-1].encode())
    return "\n\n".join(parts)


def train_tokenizer(files: dict[str, str], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the training files; it never adds tokens of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(files.values(), trainer)
    special = {"bos_token": BOS, "eos_token": BOS, "pad_token": BOS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def token_stream(tokenizer: PreTrainedTokenizerFast, files: dict[str, str]) -> list[np.ndarray]:
    """Return one int64 array a file: the start token, then the tokens of the file."""
    encoded = tokenizer(list(files.values()), add_special_tokens=False)["input_ids"]
    return [np.array([BOS_ID, *ids], dtype=np.int64) for ids in encoded]


def write_texts(tokenizer: PreTrainedTokenizerFast, files: dict[str, dict[str, str]], out: Path) -> None:
    """Write the tokenizer, calibration.txt, evaluation.txt and the licence of the texts to `out`."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):  # how it was made or loaded, not what it is
        settings.pop(key, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # as older versions of the library know it
    path.write_text(json.dumps(settings, indent=2) + "\n")
    for split, size in {"calibration": CALIBRATION_BYTES, "evaluation": EVALUATION_BYTES}.items():
        (out / f"{split}.txt").write_bytes(join_excerpts(files[split], size).encode())
    licence = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")  # some distributions leave it out
    if licence.exists():
        (out / "LICENSE-PSF.txt").write_bytes(licence.read_bytes())
