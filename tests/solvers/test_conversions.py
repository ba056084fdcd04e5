"""Folders in older formats: pickles are refused with a command that converts them, older tokenizers are converted."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from solvers.checkpoints import reading
from solvers.errors import UnreadableModelError
from solvers.texts.text import read_text
from solvers.texts.tokenizer_file import tokenizer_file
from tests.support.exports import edited, exported
from tests.support.models import save, tiny, token_ids
from tests.support.published import TEXT, a_vocabulary_and_merges


def refusal(folder: Path) -> str:
    with pytest.raises(UnreadableModelError) as caught:
        reading.inspect(folder)
    return str(caught.value)


def carried_out(message: str, folder: Path) -> None:
    """Run the command that a message ends with, on ``folder``."""
    words = shlex.split(message[message.index("python -c") :])
    assert words[0] == "python"
    assert words[-1] == "path/to/model"
    subprocess.run([sys.executable, *words[1:-1], str(folder)], check=True, cwd=folder, capture_output=True)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("files", [1, 2])
def test_pickles_are_refused_and_the_command_converts_them(family: str, files: int, tmp_path: Path) -> None:
    model = tiny(family).float()
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tensors = model.state_dict()  # as older exports: both names of tied tensors, one memory
    names = sorted(tensors)
    for number in range(files):
        part = {name: tensors[name] for name in names[number::files]}
        end = "" if files == 1 else f"-{number + 1:05}-of-{files:05}"
        torch.save(part, tmp_path / f"pytorch_model{end}.bin")
    message = refusal(tmp_path)
    assert "pickles only" in message
    carried_out(message, tmp_path)
    ids = token_ids(2, 12)
    assert torch.allclose(reading.load(reading.inspect(tmp_path))(ids).logits, model(ids).logits, atol=1e-5)


def test_the_command_runs_no_pickle(tmp_path: Path) -> None:
    save(tiny("llama").float(), tmp_path)
    (tmp_path / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, (f"open({str(tmp_path / 'marker')!r}, 'w')",))

    torch.save({"model.norm.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(subprocess.CalledProcessError):
        carried_out(refusal(tmp_path), tmp_path)
    assert not (tmp_path / "marker").exists()


def test_a_vocabulary_and_merges_become_a_tokenizer_and_no_code_of_the_model_runs(tmp_path: Path) -> None:
    source, marker = tmp_path / "source", tmp_path / "marker"
    save(tiny("gpt2", vocab_size=300).float(), source)
    made = a_vocabulary_and_merges(source)
    (source / "own.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit('never')\n")
    code = {"AutoTokenizer": ["own.Slow", "own.Fast"], "AutoConfig": "own.Config"}
    edited(source, auto_map=code)
    edited(source, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", auto_map=code)
    before = {path.name: path.stat().st_mtime_ns for path in source.iterdir()}
    source.chmod(0o500)
    reading.inspect(source)
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 4)
    read = read_text(text, source, window=16, what="calibration")
    assert read.windows.flatten().tolist() == made.encode(TEXT * 4).ids[: read.windows.numel()]
    for folder in exported(source, tmp_path):
        written = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert written.encode(TEXT).ids == made.encode(TEXT).ids
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        assert tokenizer(TEXT).input_ids == made.encode(TEXT).ids
        assert {"vocab.json", "merges.txt"} <= {path.name for path in folder.iterdir()}
    source.chmod(0o700)
    assert {path.name: path.stat().st_mtime_ns for path in source.iterdir()} == before
    assert not marker.exists()


def test_what_was_made_goes_with_what_it_was_made_of(tmp_path: Path) -> None:
    save(tiny("gpt2", vocab_size=300).float(), tmp_path)
    a_vocabulary_and_merges(tmp_path)
    first = tokenizer_file(tmp_path)
    assert tokenizer_file(tmp_path) == first
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    other = tokenizer_file(tmp_path)
    assert json.loads(first.read_text())["model"]["merges"]
    assert not json.loads(other.read_text())["model"]["merges"]


@pytest.mark.parametrize(("vocabulary", "merges"), [("{", "#version: 0.2\n"), ('{"a": 0}', "a b c d e\n")])
def test_what_is_no_vocabulary_is_refused_in_one_line(vocabulary: str, merges: str, tmp_path: Path) -> None:
    save(tiny("gpt2").float(), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_text(merges)
    message = refusal(tmp_path)
    assert f"{tmp_path.name}: tokenizer.json is missing, and none can be made of vocab.json: " in message
    assert "\n" not in message


def a_sentencepiece_file(folder: Path) -> Any:
    """Instead of tokenizer.json; the processor that it is of."""
    import sentencepiece

    (folder / "tokenizer.json").unlink()
    text = folder / "words.txt"
    text.write_text("\n".join([TEXT] * 8))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=300, model_type="bpe",
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_sentencepiece_file_becomes_a_tokenizer(tmp_path: Path) -> None:
    save(tiny("llama", vocab_size=300).float(), tmp_path)
    made = a_sentencepiece_file(tmp_path)
    edited(tmp_path, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", legacy=False)
    reading.inspect(tmp_path)
    assert Tokenizer.from_file(str(tokenizer_file(tmp_path))).encode(
        TEXT.strip(), add_special_tokens=False
    ).ids == made.encode(TEXT.strip())


def test_a_sentencepiece_file_is_told_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solvers.texts.tokenizer_file._SENTENCEPIECE", ("google.no_such_module",))
    save(tiny("llama").float(), tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    assert refusal(tmp_path).endswith(
        "tokenizer.json is missing, and tokenizer.model needs another library to be read: pip install sentencepiece protobuf"
    )
