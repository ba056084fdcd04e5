"""A model folder's chat template, which is never run in this process, and the special tokens that the folder names."""

from __future__ import annotations

from pathlib import Path

from solvers.errors import UnreadableModelError
from solvers.folder import inside, tokenizer_options
from solvers.texts.tokenizing import ChatRefused

_FILE = "chat_template.jinja"
_LIMIT_BYTES = 1 << 20
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def chat_template(folder: Path) -> str:
    """The template of chat_template.jinja, or else of tokenizer_config.json, there the one named ``default`` of several.

    Raises:
        ChatRefused: there is none.
        UnreadableModelError: the file leads outside, is too large or no UTF-8.
    """
    if (folder / _FILE).exists():
        try:
            return inside(folder, _FILE, limit_bytes=_LIMIT_BYTES).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UnreadableModelError(f"{folder.name}: {_FILE} is not UTF-8") from None
    template = tokenizer_options(folder).get("chat_template")
    if isinstance(template, list):
        templates = {
            entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)
        }
        template = templates.get("default")
    if not isinstance(template, str):
        raise ChatRefused("there is none; give records with a text column instead of messages, or plain text")
    return template


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that tokenizer_config.json names: name -> token."""
    options = tokenizer_options(folder)
    tokens = {}
    for name in _TOKENS:
        token = options.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            tokens[name] = content
    return tokens
