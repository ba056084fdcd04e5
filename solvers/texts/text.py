"""Calibration and evaluation text as windows of token ids, cut into disjoint shards.

The tokenizer is read from tokenizer.json alone (``solvers.texts.tokenizer_file`` makes one of older files): no class is looked
up and no code can be asked for. It runs in a process of its own (``solvers.texts.tokenizing``).
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from pathlib import Path

import torch

from solvers.errors import TextError, UnreadableModelError
from solvers.folder import called, tokenizer_options
from solvers.texts.chat import chat_template, special_tokens
from solvers.texts.documents import Documents, read_documents
from solvers.texts.tokenizer_file import tokenizer_file
from solvers.texts.tokenizing import ChatRefused, TokenizingError, chat_ids, token_ids

SHARDS = 8
MEASURE_SHARDS = (3, 7)
"""Shards that are kept from the solvers, of 8 contiguous ones of a calibration text, for measuring curves."""
LEAST_WINDOWS = 16
_LONG_TOKENS = 256
"""A text in windows longer than this need not have ``LEAST_WINDOWS``, but as many tokens, and one window in every shard."""


@dataclass(frozen=True)
class Text:
    """Non-overlapping windows (W, T) of token ids, each led by the tokenizer's own prefix (BOS) if it has one."""

    windows: torch.Tensor
    sha256: str
    prefix: tuple[int, ...]
    documents: int = 1
    form: str = "plain text"
    """The form of the text, in words: plain text, texts of a column, conversations through the chat template."""
    note: str = ""
    """A note on what the owner of the text may not expect of how it was read; empty where there is nothing."""

    @property
    def tokens(self) -> int:
        return self.windows.numel()

    def fit(self, limit_windows: int) -> torch.Tensor:
        """Windows that moments may see: at most ``limit_windows``, evenly spread."""
        return _spread(
            self._windows_of([shard for shard in range(SHARDS) if shard not in MEASURE_SHARDS]), limit_windows
        )

    def measure(self, limit_windows: int) -> torch.Tensor:
        """Windows that losses are measured on, disjoint from every fit window.

        Whatever the limit, they come in one order of which every beginning is evenly spread: more windows continue fewer.
        """
        windows = self._windows_of(list(MEASURE_SHARDS))
        return windows[spread_order(len(windows))[:limit_windows]]

    def _windows_of(self, shards: list[int]) -> torch.Tensor:
        edges = [len(self.windows) * shard // SHARDS for shard in range(SHARDS + 1)]
        return torch.cat([self.windows[edges[shard] : edges[shard + 1]] for shard in shards])


def least_windows(window: int) -> int:
    """How many windows of ``window`` tokens a text must have."""
    if window <= _LONG_TOKENS:
        return LEAST_WINDOWS
    return max(SHARDS, LEAST_WINDOWS * _LONG_TOKENS // window)


def spread_order(count: int) -> list[int]:
    """0 to ``count - 1`` in the order of van der Corput's sequence: the whole range coarsely, then what lies between."""
    bits = max(count - 1, 0).bit_length()
    reversed_bits = (sum((n >> bit & 1) << (bits - 1 - bit) for bit in range(bits)) for n in range(1 << bits))
    return list(dict.fromkeys(count * number >> bits for number in reversed_bits))


def _spread(windows: torch.Tensor, limit: int) -> torch.Tensor:
    if len(windows) <= limit:
        return windows
    return windows[torch.linspace(0, len(windows) - 1, limit).round().long()]


def leading_token(folder: Path) -> str | None:
    """The token that tokenizer_config.json, not tokenizer.json, puts in front of a text."""
    options = tokenizer_options(folder)
    bos = options.get("bos_token")
    content = bos.get("content") if isinstance(bos, dict) else bos
    return content if options.get("add_bos_token") is True and isinstance(content, str) else None


def tokenizer_sha256(folder: Path) -> str:
    """Hash of tokenizer.json. Raises UnreadableModelError as ``tokenizer_file``."""
    return hashlib.sha256(tokenizer_file(folder).read_bytes()).hexdigest()


def read_text(path: Path, folder: Path, *, window: int, what: str, column: str | None = None) -> Text:
    """Tokenize a file, or a folder of files, into windows of ``window`` tokens; at most its first 64 MiB are used.

    Args:
        what: how the text is called in errors, for instance "calibration".
        column: where records have their text (``solvers.texts.documents``).

    Raises:
        TextError: missing, empty, in no form that is read, refused by the chat template, or fewer than ``least_windows``.
        UnreadableModelError: tokenizer.json is no tokenizer, or cannot encode the text within memory and time.
    """
    documents = read_documents(path, what=what, column=column)
    if documents.empty:
        raise TextError(
            f"{what} text {path.name}: empty; it must hold at least {least_windows(window)} windows of {window} tokens"
        )
    try:
        token_list, prefix, sha256 = _ids(documents, folder)
    except ChatRefused as error:
        raise TextError(f"{what} text {path.name}: the chat template of {folder.name}: {error}") from None
    except TokenizingError as error:
        raise UnreadableModelError(f"{called(folder)}: {error}") from None
    ids = torch.tensor(token_list, dtype=torch.int64)
    body = window - len(prefix)
    if body < 1:
        raise TextError(
            f"{what} text {path.name}: the tokenizer's {len(prefix)} leading tokens fill the whole context"
        )
    count = len(ids) // body
    least_count = least_windows(window)
    if count < least_count:
        shorter = "; name a longer text, or ask for shorter windows" if window > _LONG_TOKENS else ""
        raise TextError(
            f"{what} text {path.name}: too short: {len(ids)} tokens, at least {least_count * body} are needed"
            f" ({least_count} windows of {window}){shorter}"
        )
    windows = ids[: count * body].view(count, body)
    if prefix:
        windows = torch.cat([torch.tensor(prefix).expand(count, -1), windows], dim=1)
    return Text(windows, sha256, prefix, documents.count, documents.form, documents.note)


def _ids(documents: Documents, folder: Path) -> tuple[array[int], tuple[int, ...], str]:
    """Token ids, the tokenizer's prefix, and the hash of the text that they are of."""
    tokenizer, bos = tokenizer_file(folder), leading_token(folder)
    if not documents.conversations:
        ids, prefix = token_ids(tokenizer, documents.text, bos=bos)
        return ids, prefix, documents.sha256
    return chat_ids(
        tokenizer,
        documents.conversations,
        template=chat_template(folder),
        tokens=special_tokens(folder),
        bos=bos,
    )
