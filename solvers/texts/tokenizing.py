"""Tokenize in a process of its own: a tokenizer that nobody vouches for may panic, loop, or turn a megabyte into gigabytes.

The library aborts the process where memory ends, and its panics are no ``Exception``; either would take a worker with it,
again and again. The child reads this file and the library alone (it is run by path, since importing the package imports
torch), and what it may use is bounded by the kernel. A model's chat template, a program that its authors wrote, runs there too,
in the sandbox of transformers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PIECE_CHARACTERS = 2 << 20
"""Longer texts are tokenized in pieces, cut behind the end of a line: a piece takes some 130 bytes per byte of text."""
_LONGEST_PREFIX = 1 << 20
_PROBE_CHARACTERS = 16
"""Length of the text's beginning that shows what a tokenizer puts in front; more where it gives no id."""


class TokenizingError(ValueError):
    """A failure of the tokenizer, as a phrase."""


class ChatRefused(ValueError):
    """The chat template's objection to a conversation, or a fault of the template, as a phrase."""


def token_ids(tokenizer: Path, text: str, *, bos: str | None) -> tuple[array[int], tuple[int, ...]]:
    """All ids of a text, and those that the tokenizer puts in front of every text (never those that it puts behind).

    Args:
        tokenizer: a tokenizer.json.
        bos: the token in front of a text where the tokenizer itself puts none; None for none.

    Raises:
        TokenizingError: it does not load, cannot encode the text, or needs more memory or time than it may.
    """
    head, ids = _in_a_child([str(tokenizer), json.dumps(bos)], text.encode())
    return ids, tuple(head["prefix"])


def chat_ids(
    tokenizer: Path,
    conversations: list[list[dict[str, Any]]],
    *,
    template: str,
    tokens: dict[str, str],
    bos: str | None,
) -> tuple[array[int], tuple[int, ...], str]:
    """Ids and prefix as ``token_ids`` gives them, for conversations that a chat template writes one after the other, and the
    sha256 of the written text.

    Args:
        conversations: each a list of messages with ``role`` and ``content``.
        template: Jinja, as tokenizers of transformers have it. It sees a fixed date: the same conversations are the same text.
        tokens: the special tokens that it may name, such as ``bos_token``.

    Raises:
        ChatRefused: the template does not compile, or does not take a conversation.
        TokenizingError: as ``token_ids``.
    """
    chat = {"template": template, "tokens": tokens, "conversations": conversations}
    arguments = [str(tokenizer), json.dumps(bos), "chat"]
    head, ids = _in_a_child(arguments, json.dumps(chat).encode())
    return ids, tuple(head["prefix"]), head["sha256"]


def decoded(tokenizer: Path, rows: list[list[int]]) -> list[str]:
    """The text of each row of ids, without special tokens.

    Args:
        tokenizer: a tokenizer.json.

    Raises:
        TokenizingError: it does not load, cannot decode the ids, or needs more memory or time than it may.
    """
    head, _ = _in_a_child([str(tokenizer), "null", "decode"], json.dumps(rows).encode())
    texts: list[str] = head["texts"]
    return texts


def _in_a_child(arguments: list[str], standard_input: bytes) -> tuple[dict[str, Any], array[int]]:
    from solvers import bounded  # here, since the child has no such package

    child = bounded.run(Path(__file__), arguments, standard_input)
    if child.returncode < 0:
        raise TokenizingError(
            f"the tokenizer needs more than {bounded.LIMITS} for this text (signal {-child.returncode})"
        )
    head, _, body = child.stdout.partition(b"\n")
    report: dict[str, Any] = json.loads(head)
    if "refused" in report:
        raise ChatRefused(report["refused"])
    if "error" in report:
        raise TokenizingError(f"the tokenizer {report['error']}")
    ids = array("I")
    ids.frombytes(body)
    return report, ids


def pieces(text: str) -> Iterator[str]:
    """The text in order, in pieces of at most ``PIECE_CHARACTERS``."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        for mark in ("\n", " "):
            if edge := text.rfind(mark, start + PIECE_CHARACTERS // 2, end) + 1:
                end = edge
                break
        yield text[start:end]
        start = end
    yield text[start:]


def _encode(file: str, bos: str | None, text: str) -> tuple[dict[str, Any], array[int]]:
    from tokenizers import Tokenizer

    ids = array("I")
    doing = "does not load"
    try:
        tokenizer = Tokenizer.from_file(file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # the same text is read many times
        doing = "cannot encode a text"
        prefix = _leading(tokenizer, text)
        if not prefix and bos is not None:
            bos_id = tokenizer.token_to_id(bos)
            prefix = [] if bos_id is None else [bos_id]
        if len(prefix) > _LONGEST_PREFIX:
            return {"error": f"puts {len(prefix)} tokens in front of every text"}, ids
        for piece in pieces(text):
            ids.extend(tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0].ids)
    except BaseException as error:  # a panic of the library is no Exception
        return {"error": f"{doing}: {str(error)[:500]}"}, array("I")
    return {"prefix": prefix}, ids


def _decoded(file: str, rows: list[list[int]]) -> dict[str, Any]:
    from tokenizers import Tokenizer

    doing = "does not load"
    try:
        tokenizer = Tokenizer.from_file(file)
        doing = "cannot decode ids"
        return {"texts": [tokenizer.decode(row) for row in rows]}
    except BaseException as error:  # a panic of the library is no Exception
        return {"error": f"{doing}: {str(error)[:500]}"}


def _rendered(chat: dict[str, Any]) -> dict[str, Any]:
    """The text of all conversations under ``text``, or under ``refused`` why there is none."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Fixed(datetime):
        """Templates put the day of the reading into the text; the text must be the same every day."""

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2024, 7, 26, tzinfo=tz)

    chat_template_utils.datetime = Fixed
    texts = []
    for number, conversation in enumerate(chat["conversations"], 1):
        try:
            parts, _ = chat_template_utils.render_jinja_template(
                [conversation], chat_template=chat["template"], **chat["tokens"]
            )
        except Exception as error:
            return {"refused": f"conversation {number}: {type(error).__name__}: {str(error)[:300]}"}
        texts += parts
    # A lone half of a surrogate pair, which JSON can hold, is no text.
    return {"text": "".join(texts).encode("utf-8", "replace").decode()}


def _leading(tokenizer: Any, text: str) -> list[int]:
    """Ids that the tokenizer puts in front of a text's own: what it puts around an empty one may as well stand behind."""
    length = _PROBE_CHARACTERS
    while not tokenizer.encode(text[:length], add_special_tokens=False).ids:
        if length >= min(len(text), PIECE_CHARACTERS):
            return []
        length *= 16
    encoding = tokenizer.encode(text[:length])
    own = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else 0
    return list(encoding.ids[:own])


def _main() -> None:
    file, bos, *mode = sys.argv[1:]
    standard_input = sys.stdin.buffer.read()
    if mode == ["decode"]:
        report = _decoded(file, json.loads(standard_input))
    else:
        report = _rendered(json.loads(standard_input)) if mode else {"text": standard_input.decode()}
    ids = array("I")
    if "text" in report:
        text = report["text"]
        report, ids = _encode(file, json.loads(bos), text)
        if mode:
            report["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    sys.stdout.buffer.write(json.dumps(report).encode() + b"\n")
    ids.tofile(sys.stdout.buffer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
