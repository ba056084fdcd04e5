"""Data sets of a hub as texts, against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants, snapshot_download

from allocator.base.errors import UnusableText
from allocator.base.settings import Settings
from allocator.stages import hub_names
from allocator.stages.hub_files import CONVERTED
from allocator.stages.hub_texts import HubText, hub_text, needed_bytes
from api.cli.hub_texts import text_of
from solvers.texts.documents import read_documents
from tests.support import command
from tests.support.damage import EXAMPLES
from tests.support.dataset_hub import Hub, Repository, dataset_hub, used

MANY = 1 << 20


def parquet(records: list[dict[str, Any]], rows: int = 100) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(records)
    pyarrow.parquet.write_table(table, sink, row_group_size=rows, compression="none")
    return sink.getvalue().to_pybytes()


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def texts(word: str, count: int = 3) -> list[dict[str, Any]]:
    return [{"id": n, "text": f"{word} {n}"} for n in range(count)]


CHATS = [{"messages": [{"role": "user", "content": f"print {n}"}]} for n in range(3)]
SCRIPT = b"raise SystemExit('never')"
WIKITEXT = "wikitext-2-raw-v1"


def repositories() -> dict[str, Repository]:
    return {
        "Salesforce/wikitext": Repository(
            {
                "main": {
                    "wikitext.py": SCRIPT,
                    "README.md": b"about",
                    f"{WIKITEXT}/train.parquet": b"unread",
                },
                CONVERTED: {
                    f"{WIKITEXT}/train/0000.parquet": parquet([*texts("wiki"), {"id": 3, "text": ""}]),
                    f"{WIKITEXT}/train/0001.parquet": parquet(texts("more")),
                    f"{WIKITEXT}/test/0000.parquet": parquet(texts("test")),
                    "wikitext-103-v1/partial-train/0000.parquet": parquet(texts("large")),
                },
            }
        ),
        "allenai/c4": Repository(
            {
                "main": {
                    "en/c4-train.00000-of-01024.json.gz": gzip.compress(lines(texts("c4"))),
                    "en/c4-validation.00000-of-00008.json.gz": gzip.compress(lines(texts("c4 held out"))),
                    "c4.py": SCRIPT,
                }
            }
        ),
        "NeelNanda/pile-10k": Repository(
            {CONVERTED: {"default/train/0000.parquet": parquet(texts("pile"))}, "main": {}}
        ),
        "team/chats": Repository(
            {
                "main": {
                    "data/train-00000-of-00001.jsonl": lines(CHATS),
                    "data/validation.jsonl": lines(CHATS[:1]),
                    "poems/test.parquet": parquet([{"body": "a poem"}]),
                    ".hidden/train.jsonl": b"no JSON",
                    "load.py": SCRIPT,
                }
            }
        ),
        "team/several": Repository(
            {
                CONVERTED: {
                    f"{c}/{s}/0000.parquet": parquet(texts(c)) for c in ("de", "en") for s in ("a", "b")
                }
            }
        ),
        "team/gated": Repository({"main": {"train.jsonl": lines(texts("secret"))}}, gated=True),
        "team/script": Repository({"main": {"load.py": SCRIPT, "data.zip": b"PK"}}),
    }


@pytest.fixture(scope="module")
def listening() -> Iterator[Hub]:
    with dataset_hub({}) as hub:
        yield hub


@pytest.fixture
def hub(listening: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """As nobody has asked it anything yet."""
    monkeypatch.setenv("RANKALLOC_HOME", str(tmp_path / "home"))
    used(monkeypatch, listening.url, tmp_path / "cache")
    listening.repositories, listening.sent_bytes = repositories(), 0
    listening.asked.clear()
    yield listening
    assert not [path for path in listening.asked if path.endswith(".py")]


def taken(named: str, field: str = "calibration", limit: int = MANY, column: str | None = None) -> HubText:
    return hub_text(named, field, Settings(), limit_bytes=limit, column=column)


def read(named: str, field: str = "calibration", column: str | None = None) -> str:
    return read_documents(taken(named, field, column=column).file, what=field, column=column).text


@pytest.mark.parametrize(
    ("named", "field", "text"),
    [
        ("wikitext2", "calibration", "wiki 0\n\nwiki 1\n\nwiki 2\n\nmore 0\n\nmore 1\n\nmore 2"),
        ("wikitext2", "evaluation", "test 0\n\ntest 1\n\ntest 2"),
        ("c4", "calibration", "c4 0\n\nc4 1\n\nc4 2"),
        ("c4", "evaluation", "c4 held out 0\n\nc4 held out 1\n\nc4 held out 2"),
        ("pile", "calibration", "pile 0\n\npile 1\n\npile 2"),
        ("pile", "evaluation", "pile 0\n\npile 1\n\npile 2"),
        (f"hf:Salesforce/wikitext:{WIKITEXT}", "evaluation", "test 0\n\ntest 1\n\ntest 2"),
        (f"hf:Salesforce/wikitext:{WIKITEXT}:test", "calibration", "test 0\n\ntest 1\n\ntest 2"),
        ("hf:Salesforce/wikitext:wikitext-103-v1", "evaluation", "large 0\n\nlarge 1\n\nlarge 2"),
        ("hf:team/several:en:b", "calibration", "en 0\n\nen 1\n\nen 2"),
        ("hf:NeelNanda/pile-10k", "calibration", "pile 0\n\npile 1\n\npile 2"),
    ],
)
def test_a_name_is_the_texts_of_its_split(hub: Hub, named: str, field: str, text: str) -> None:
    assert read(named, field) == text


def test_the_commit_is_pinned_said_and_can_be_named_again(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.repositories["Salesforce/wikitext"].commit(CONVERTED)
    pinned = f"hf:Salesforce/wikitext@{commit}:{WIKITEXT}:train"
    file, source = text_of("wikitext2", "calibration")
    assert source == pinned
    assert f"calibration: {pinned}, at most 12 MiB of text" in " ".join(capsys.readouterr().err.split())
    assert file.is_relative_to(tmp_path / "home" / "hub" / "texts")
    content = file.read_bytes()
    hub.asked.clear()
    assert text_of("wikitext2", "calibration") == (file, source)
    assert hub.asked == [f"/api/datasets/Salesforce/wikitext/revision/{CONVERTED}"], "nothing is read twice"
    new = {f"{WIKITEXT}/train/0000.parquet": parquet(texts("new"))}
    hub.repositories["Salesforce/wikitext"].revisions[CONVERTED] = new
    assert read("wikitext2") == "new 0\n\nnew 1\n\nnew 2"
    assert file.read_bytes() == content, "what a job may still read stays"


def test_what_lies_here_goes_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c4").mkdir()
    assert text_of("c4", "calibration") == (tmp_path / "c4", None)
    assert text_of(Path("chats.jsonl"), "calibration") == (tmp_path / "chats.jsonl", None)
    assert hub.asked == []


def test_conversations_and_columns_are_read_as_those_of_files(hub: Hub) -> None:
    chats = taken("hf:team/chats:default:train")
    found = read_documents(chats.file, what="calibration")
    assert found.conversations == [record["messages"] for record in CHATS]
    assert chats.file.name == "chats-default-train.jsonl"
    assert read("hf:team/chats:poems", column="body") == "a poem"
    assert read("hf:team/chats:poems/test.parquet", column="body") == "a poem"


@pytest.mark.parametrize("rows", [100, 8000])
@pytest.mark.parametrize("named", ["hf:team/large", "hf:team/large:text.jsonl.gz"])
def test_no_more_is_fetched_than_is_used(hub: Hub, named: str, rows: int) -> None:
    large = {
        "main": {"text.jsonl.gz": gzip.compress(lines(texts("x" * 1000, 8000)), compresslevel=0)},
        CONVERTED: {"default/train/0000.parquet": parquet(texts("y" * 1000, 8000), rows)},
    }
    hub.repositories["team/large"] = Repository(large)
    found = taken(named, limit=1 << 19)
    assert hub.sent_bytes < 3 << 20 < 8_000_000, "of 8 MB"
    read = read_documents(found.file, what="calibration")
    assert (
        len(read.text.replace("\n\n", ""))
        >= 1 << 19
        > len(read.text.rpartition("\n\n")[0].replace("\n\n", ""))
    )


def test_more_windows_are_more_text() -> None:
    assert needed_bytes("calibration", None, None) == 12 << 20
    assert needed_bytes("calibration", 1024, 2048) > 8 * 1024 * 2048
    assert needed_bytes("calibration", 1_000_000, 2048) == 64 << 20, "as of a file"
    assert needed_bytes("evaluation", 4096, 2048) == 2 << 20


def test_where_the_hub_is_not_asked_it_is_what_was_read_last_or_what_its_cache_has(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = taken("wikitext2")
    snapshot_download("team/chats", repo_type="dataset", allow_patterns=["data/*"])
    commit = hub.repositories["team/chats"].commit("main")
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert taken("wikitext2") == online
    chats = taken("hf:team/chats")
    assert chats.source == f"hf:team/chats@{commit}:default:train"
    assert taken(f"hf:team/chats@{commit}:data/validation.jsonl").file.is_file()
    for named in ("c4", "hf:team/chats:poems/test.parquet"):
        with pytest.raises(UnusableText) as caught:
            taken(named)
        said = "not read before with these options, nothing of it in the hub's cache, and HF_HUB_OFFLINE is set; online `hf"
        assert said in str(caught.value.detail)
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert taken("wikitext2") == online
    with pytest.raises(UnusableText, match=r"http://127\.0\.0\.1:9 does not answer \(ConnectError\); online"):
        taken("c4")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("hf:imdb", "--calibration: 'hf:imdb' is not hf:owner/name[@revision][:config[:split]], or hf:owner/name[@rev"),
        ("hf:team/chats:../../train.jsonl", "train.jsonl' is not hf:owner/name"),
        ("hf:team/chats@../main", "main' is not hf:owner/name"),
        ("hf:team/chats:/etc/x.txt", "x.txt' is not hf:owner/name"),
        ("hf:team/none", "no data set team/none at http://127.0.0.1:{port}, or none that this login may see (`hf auth"),
        ("hf:team/gated", "do so at http://127.0.0.1:{port}/datasets/team/gated, then `hf auth login`, or set HF_TOKEN"),
        ("hf:Salesforce/wikitext", "has several configurations; say which: wikitext-103-v1, wikitext-2-raw-v1"),
        ("hf:Salesforce/wikitext:wikitext-2", "no configuration 'wikitext-2': wikitext-103-v1, wikitext-2-raw-v1"),
        ("hf:team/several:en", "hf:team/several:en: the data set has several splits; say which: a, b"),
        (f"hf:Salesforce/wikitext:{WIKITEXT}:dev", "has no split 'dev': test, train"),
        ("hf:Salesforce/wikitext@v9", "the data set has no branch, tag or commit v9"),
        ("hf:allenai/c4:en/none.json.gz", "has no file en/none.json.gz; its files are at http"),
        ("hf:team/script", "no files of records (.jsonl, .ndjson, .parquet) in that revision, nor has the hub conv"),
        ("hf:team/chats:other.json", "the data set has no file other.json"),
        ("hf:team/chats:poems", "has no column 'text' or 'messages' but 'body'; name the one with the text: --text-col"),
    ],
)  # fmt: skip
def test_why_a_data_set_cannot_be_had_is_said_in_a_line(
    hub: Hub, tmp_path: Path, named: str, said: str
) -> None:
    with pytest.raises(UnusableText) as caught:
        taken(named)
    detail = caught.value.detail
    assert said.format(port=hub.url.rsplit(":", 1)[1]) in detail
    assert "\n" not in detail
    assert not list((tmp_path / "home" / "hub").rglob("*.jsonl")), "nothing is left half"


def test_a_command_says_it_in_a_line_and_ends_with_2(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("evaluate", EXAMPLES / "pylm-llama", "--evaluation", "hf:team/gated")
    code, printed, shown = command.run(capsys, monkeypatch, tmp_path / "home", *arguments)
    commit = hub.repositories["team/gated"].commit("main")
    assert (code, printed, shown.count("\n")) == (2, "", 1)
    assert shown.startswith(f"error: hf:team/gated@{commit}:default:train: its publisher gives it to those")


def test_a_library_that_is_missing_is_named_with_the_command(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UnusableText, match=r"pip install 'rankalloc\[text\]'"):
        taken("wikitext2")


def test_files_without_a_conversion_belong_where_their_names_say() -> None:
    own = [
        "README.md",
        "train.jsonl",
        "dev.jsonl.gz",
        "a/test-00000-of-00002.parquet",
        "a/x.py",
        "b/evil/0.parquet",
    ]
    assert hub_names.splits_of(own) == {
        "default": {"train": ["train.jsonl"], "validation": ["dev.jsonl.gz"]},
        "a": {"test": ["a/test-00000-of-00002.parquet"]},
        "b": {"train": ["b/evil/0.parquet"]},
    }
