"""The written tokenizer_config.json: AutoTokenizer reads the tokenizer of a compressed checkpoint as it reads the source's.

AutoTokenizer lets the family decide: a class for files that name none, and whether the class that is named counts at all. A
compact checkpoint is of no family that it knows, so what the family decides is written down.
"""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from solvers.folder import tokenizer_options
from solvers.texts.tokenizer_file import tokenizer_file

_AS_THE_FILE_SAYS = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is, by the name that transformers 4 and 5 know."""
_NO_CLASSES = ("TokenizersBackend", "MistralCommonBackend", "PythonBackend", _AS_THE_FILE_SAYS)
"""Classes for whose families AutoTokenizer reads tokenizer.json itself, whatever class is named."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def written_options(source: Path, family: str, *, compact: bool) -> dict[str, Any]:
    """tokenizer_config.json beside a compressed model, without code.

    Args:
        family: the source's ``model_type``.
        compact: whether for a compact checkpoint; a padded one is of the family itself.
    """
    options = tokenizer_options(source)
    options.pop("auto_map", None)
    registered = TOKENIZER_MAPPING_NAMES.get(family)
    if options.get("tokenizer_class") is None:
        options |= _defaults(registered, options, source)
        options["tokenizer_class"] = _AS_THE_FILE_SAYS
    elif compact and registered in _NO_CLASSES:
        options["tokenizer_class"] = _AS_THE_FILE_SAYS
    return options


def _defaults(registered: str | None, options: dict[str, Any], source: Path) -> dict[str, Any]:
    """Special tokens that nobody names and the family's class has by default, such as GPT-2's ``<|endoftext|>``: those that
    tokenizer.json has too, since any other would become a new token."""
    if registered is None or registered in _NO_CLASSES:
        return {}
    with suppress(ImportError, AttributeError):
        parameters = inspect.signature(tokenizer_class_from_name(registered).__init__).parameters
        defaults = {
            name: parameters[name].default for name in _SPECIAL if name in parameters and name not in options
        }
        added = _added(source)
        return {name: token for name, token in defaults.items() if isinstance(token, str) and token in added}
    return {}


def _added(source: Path) -> set[str]:
    """The special tokens of tokenizer.json; empty where it cannot be read, which is no reason to lose a compressed model."""
    path = tokenizer_file(source)
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        tokens = json.loads(path.read_text(encoding="utf-8")).get("added_tokens") or ()
        return {token["content"] for token in tokens if isinstance(token.get("content"), str)}
    return set()
