"""Logs of the service: one line an event, with the request, job, item and attempt that it belongs to.

``RANKALLOC_LOG_FORMAT=json`` gives one JSON object a line, for collectors; ``text`` (default) is for people. What is bound
by ``bound`` goes along with every record of that thread or task, other libraries' too. Secrets never get here: no header, no
body and no URL with a password is ever logged.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from allocator.base.settings import Settings

_CONTEXT: ContextVar[dict[str, str | int]] = ContextVar("rankalloc_log_context", default={})  # noqa: B039 - never changed in place
_FIELDS = ("timestamp", "level", "logger", "message")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if code not in (9, 10)}


@contextmanager
def bound(**values: str | int) -> Iterator[None]:
    """Add these to every record in the block."""
    token = _CONTEXT.set({**_CONTEXT.get(), **values})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


class WithContext(logging.Filter):
    """Puts what is bound onto records. On handlers, since a logger's filters do not see its children's records."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.context = _CONTEXT.get()
        return True


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, message, and what is bound in brackets.

    Control characters are written out: a name that holds some can neither start a line of its own nor colour a terminal.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record).translate(_CONTROL).replace("\n", "\\n")
        context = " ".join(f"{name}={value}" for name, value in getattr(record, "context", {}).items())
        return f"{line} [{context}]" if context else line


class JsonLinesFormatter(JsonFormatter):
    """One object a line; what is bound stands beside the message."""

    def __init__(self) -> None:
        super().__init__(
            "{message}{levelname}{name}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp=True,
        )

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data.pop("context", None)
        log_data.update({f: v for f, v in getattr(record, "context", {}).items() if f not in _FIELDS})


def handler(settings: Settings, stream: TextIO | None = None) -> logging.Handler:
    """A handler that writes as the settings say; default: to standard error."""
    result = logging.StreamHandler(stream or sys.stderr)
    result.setFormatter(JsonLinesFormatter() if settings.log_format == "json" else TextFormatter())
    result.addFilter(WithContext())
    return result


def configure(settings: Settings, *, level: str) -> None:
    """Make the root logger write as the settings say, from ``level`` where they name none; what wrote before is replaced."""
    least = (settings.log_level or level).upper()
    logging.basicConfig(level=least, handlers=[handler(settings)], force=True)
