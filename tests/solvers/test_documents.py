"""Texts as people have them: what is read of which file, and what is said of one that cannot be."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard
from tokenizers import Tokenizer

from solvers.errors import TextError, UnreadableModelError
from solvers.texts import documents
from solvers.texts.documents import read_documents
from solvers.texts.text import read_text
from tests.support.damage import EXAMPLES

TEXTS = ["def one():\n    return 1", "import os  # größe", "\n\nx = 3\n"]
JOINED = "\n\n".join(TEXTS)
CHATS = [
    [{"role": "user", "content": f"print {n}"}, {"role": "assistant", "content": f"print({n})"}]
    for n in range(300)
]
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{{ eos_token or '' }}\n{% endfor %}{{ strftime_now('%Y') }}"
)


def lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def parquet(records: list[Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink)
    return sink.getvalue().to_pybytes()


RECORDS = [{"id": 1, "text": text} for text in TEXTS]
FORMS: dict[str, Callable[[], bytes]] = {
    "texts.jsonl": lambda: lines(RECORDS),
    "texts.ndjson": lambda: (
        b"\xef\xbb\xbf" + lines([*RECORDS[:1], {"text": ""}, {"text": None}, *RECORDS[1:]])
    ),
    "texts.JSON": lambda: json.dumps(RECORDS, indent=1).encode(),
    "texts.jsonl.gz": lambda: gzip.compress(lines(RECORDS)),
    "texts.jsonl.zst": lambda: (
        zstandard.compress(lines(RECORDS[:2])) + zstandard.compress(lines(RECORDS[2:]))
    ),
    "texts.parquet": lambda: parquet(RECORDS),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_texts_of_records_are_the_same_in_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name]())
    found = read_documents(tmp_path / name, what="calibration")
    assert (found.text, found.count, found.note) == (JOINED, 3, "")
    assert found.sha256 == hashlib.sha256(JOINED.encode()).hexdigest()


def test_records_have_their_text_in_the_column_that_is_named(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", lines), ("a.parquet", parquet)):
        (tmp_path / name).write_bytes(content([{"text": "no", "content": text} for text in TEXTS]))
        found = read_documents(tmp_path / name, what="calibration", column="content")
        assert (found.text, found.form) == (JOINED, "texts of column 'content'")


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / "a.txt").write_text("first")
    (folder / "b" / "1.jsonl").write_bytes(lines([{"text": "second"}, {"text": "third"}]))
    (folder / "c.txt.gz").write_bytes(gzip.compress(b"fourth"))
    (folder / ".cache" / "x.txt").write_text("hidden")
    (folder / "README.md").write_text("about")
    found = read_documents(folder, what="calibration")
    assert found.text == "first\n\nsecond\n\nthird\n\nfourth"
    assert (found.count, found.note) == (4, "1 files of other kinds were left out")


def test_a_plain_text_keeps_its_name_compressed_or_not(tmp_path: Path) -> None:
    raw = ("größe\r\n" * 9).encode()
    for name, content in (
        ("text", raw),
        ("text.txt", raw),
        ("text.py", raw),
        ("text.txt.gz", gzip.compress(raw)),
        ("text.zst", zstandard.compress(raw)),
    ):
        (tmp_path / name).write_bytes(content)
        found = read_documents(tmp_path / name, what="calibration")
        assert (found.text, found.form, found.note) == (raw.decode(), "plain text", "")
        assert found.sha256 == hashlib.sha256(raw).hexdigest()


def test_records_in_a_plain_text_are_read_as_they_stand_and_not_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes(lines(RECORDS))
    found = read_documents(tmp_path / "texts.txt", what="calibration")
    assert found.text == lines(RECORDS).decode()
    assert "name the file .jsonl" in found.note


def test_no_more_than_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_LIMIT_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(lines([{"text": "x" * 100_000}]))
    found = read_documents(bomb, what="calibration")
    assert found.count == 11
    assert found.note == "only the first 1 MiB were read"
    (tmp_path / "long.txt").write_text("x" * (3 << 20))
    found = read_documents(tmp_path / "long.txt", what="calibration")
    assert (len(found.text), found.note) == (1 << 20, "only the first 1 MiB were read")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is no JSON"),
        ("a.jsonl", b'"a"\n', "line 1 is no object but str"),
        ("a.jsonl", b'{"body": "a", "id": 1}', "line 1 has no column 'text' or 'messages' but 'body', 'id'"),
        ("a.jsonl", b'{"text": 3}', "column 'text' is neither a text nor a list of messages"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"messages": [{"role": "user", "content": "b"}]}',
            "both texts and conv",
        ),
        ("a.jsonl", b"\xff\xfe", "line 1 is no JSON"),
        ("a.jsonl", b'{"text": null}', "empty"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.jsonl.gz", b"no gzip", "cannot be decompressed"),
        ("a.jsonl.gz", gzip.compress(lines(RECORDS))[:-12], "cannot be decompressed"),
        ("a.txt.zst", b"no zstandard", "cannot be decompressed"),
        ("a.parquet", b"PAR1 no more", "no Parquet file"),
        ("a.parquet", parquet([{"body": "a"}]), "has no column 'text' or 'messages' but 'body'"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=r"^calibration text a\.") as caught:
        read_text(tmp_path / name, EXAMPLES / "pylm-llama", window=16, what="calibration")
    assert said in str(caught.value)


def test_an_empty_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(TextError, match=r"holds no \.txt, \.jsonl"):
        read_documents(tmp_path, what="calibration")


@pytest.mark.parametrize(("name", "library"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")])
def test_a_library_that_is_missing_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TextError) as caught:
        read_documents(tmp_path / name, what="calibration")
    assert str(caught.value) == (
        f"calibration text {name}: reading it needs {library}, which is not installed;"
        " pip install 'rankalloc[text]'"
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(EXAMPLES / "pylm-llama", tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def written() -> str:
    """What the template makes of the conversations, whose end of a turn is the model's own token."""
    return "".join(
        "".join(f"<{message['role']}>{message['content']}<|bos|>\n" for message in chat) + "2024"
        for chat in CHATS
    )


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.parquet"])
def test_conversations_are_written_by_the_model_s_own_template(
    model: Path, tmp_path: Path, name: str
) -> None:
    records = [{"messages": chat, "id": n} for n, chat in enumerate(CHATS)]
    (tmp_path / name).write_bytes((lines if name.endswith("l") else parquet)(records))
    found = read_text(tmp_path / name, model, window=64, what="calibration")
    assert (found.documents, found.form) == (300, "conversations through the chat template")
    assert found.sha256 == hashlib.sha256(written().encode()).hexdigest(), "the same on every day"
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(written(), add_special_tokens=False).ids
    body = 64 - len(found.prefix)
    expected = torch.tensor(ids[: len(ids) // body * body]).view(-1, body)
    assert torch.equal(found.windows[:, len(found.prefix) :], expected)


def test_the_template_may_stand_in_the_tokenizer_s_options(model: Path, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_bytes(lines([{"messages": chat} for chat in CHATS]))
    wanted = read_text(tmp_path / "chats.jsonl", model, window=64, what="calibration").sha256
    (model / "chat_template.jinja").unlink()
    options = json.loads((model / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    for template in (TEMPLATE, several):
        options["chat_template"] = template
        (model / "tokenizer_config.json").write_text(json.dumps(options))
        assert read_text(tmp_path / "chats.jsonl", model, window=64, what="calibration").sha256 == wanted


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "there is none; give records with a text column"),
        ("{% if %}", "TemplateSyntaxError"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "conversation 1: TemplateError: roles must alternate",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('touch owned') }}", "SecurityError"),
        ("{% for a in range(10**9) %}{% endfor %}", "OverflowError"),
    ],
)
def test_a_template_that_is_missing_broken_or_hostile_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_bytes(lines([{"messages": chat} for chat in CHATS]))
    (model / "chat_template.jinja").unlink()
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    with pytest.raises(TextError, match="the chat template of model: ") as caught:
        read_text(tmp_path / "chats.jsonl", model, window=64, what="calibration")
    assert said in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_a_template_that_takes_all_memory_takes_no_worker_with_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_bytes(lines([{"messages": CHATS[0]}]))
    (model / "chat_template.jinja").write_text("{{ 'x' * 8000000000 }}")
    with pytest.raises((TextError, UnreadableModelError), match=r"MemoryError|more than 4 GiB"):
        read_text(tmp_path / "chats.jsonl", model, window=64, what="calibration")


def test_a_template_that_leaves_the_folder_is_not_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_bytes(lines([{"messages": CHATS[0]}]))
    (model / "chat_template.jinja").rename(tmp_path / "elsewhere")
    (model / "chat_template.jinja").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnreadableModelError, match="leaves the model folder"):
        read_text(tmp_path / "chats.jsonl", model, window=64, what="calibration")
