"""What a model folder says of conversations: its chat template, which is never run in this process, and the tokens it names."""

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
    found = tokenizer_options(folder).get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        raise ChatRefused("there is none; give records with a text column instead of messages, or plain text")
    return found


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that tokenizer_config.json names: name -> token."""
    options = tokenizer_options(folder)
    found = {}
    for name in _TOKENS:
        token = options.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            found[name] = content
    return found
