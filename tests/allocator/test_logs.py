"""Log lines: what is bound goes along, and nothing that a name holds can forge a line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from allocator.base import logs
from allocator.base.settings import Settings
from tests.support.processes import ROOT


def written(settings: Settings, write: object) -> str:
    stream, logger = io.StringIO(), logging.getLogger("test.logs")
    handler = logs.handler(settings, stream)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        write(logger)  # type: ignore[operator]
    finally:
        logger.removeHandler(handler)
    return stream.getvalue()


def speak(logger: logging.Logger) -> None:
    with logs.bound(job="01J", attempt=2):
        with logs.bound(item="layer-3"):
            logger.warning("lost %s", "it")
        logger.warning("outer")
    logger.warning("nothing bound")


def test_people_read_lines_with_what_is_bound(settings: Settings) -> None:
    first, second, third = written(settings, speak).splitlines()
    assert first.endswith("WARNING test.logs: lost it [job=01J attempt=2 item=layer-3]")
    assert second.endswith("outer [job=01J attempt=2]")
    assert third.endswith("nothing bound")


def test_collectors_read_one_object_a_line(settings: Settings) -> None:
    json_lines = settings.model_copy(update={"log_format": "json"})

    def fail(logger: logging.Logger) -> None:
        speak(logger)
        try:
            raise ValueError("boom\nsecond line")
        except ValueError:
            logger.exception("failed")

    documents = [json.loads(line) for line in written(json_lines, fail).splitlines()]
    assert documents[0].items() >= {"job": "01J", "attempt": 2, "item": "layer-3", "level": "WARNING"}.items()
    assert documents[0]["message"] == "lost it"
    assert "job" not in documents[2]
    assert "boom" in documents[3]["exc_info"]
    assert all(document["timestamp"] for document in documents)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_hostile_name_can_neither_start_a_line_nor_colour_it(settings: Settings, log_format: str) -> None:
    hostile = "m\n2026-01-01 ERROR forged\r\x1b[31mred\x9b31m\x00"
    changed = settings.model_copy(update={"log_format": log_format})
    text = written(changed, lambda logger: logger.warning("model %s", hostile))
    assert text.count("\n") == 1
    assert not set(text[:-1]) & {chr(code) for code in (*range(32), *range(127, 160))}


def test_threads_do_not_see_what_others_bind(settings: Settings) -> None:
    seen = []

    def other() -> None:
        seen.append(written(settings, lambda logger: logger.warning("elsewhere")))

    with logs.bound(job="mine"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "mine" not in seen[0]


def test_a_context_cannot_replace_what_every_line_has(settings: Settings) -> None:
    changed = settings.model_copy(update={"log_format": "json"})

    def write(logger: logging.Logger) -> None:
        with logs.bound(message="other", level="other"):
            logger.warning("own")

    assert json.loads(written(changed, write))["message"] == "own"


def test_other_libraries_write_the_same_way(tmp_path: Path) -> None:
    code = (
        "import logging; from allocator.base import logs; from allocator.base.settings import Settings\n"
        "logs.configure(Settings(log_format='json'), level='info')\n"
        "with logs.bound(request='r1'): logging.getLogger('somebody.else').info('hello')\n"
        "logging.getLogger('somebody.else').debug('too quiet')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert (
        json.loads(line).items() >= {"logger": "somebody.else", "message": "hello", "request": "r1"}.items()
    )
