"""Folders in older formats: refused with a command that converts them, which works as it is printed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from solvers import reading
from solvers.errors import UnreadableModelError
from tests.support.exports import edited
from tests.support.models import save, tiny, token_ids

TEXT = "the words of a text, and the other words of another text " * 20


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


def test_the_command_makes_a_tokenizer_of_a_vocabulary_and_merges(tmp_path: Path) -> None:
    save(tiny("gpt2", vocab_size=300).float(), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    made.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=special)
    )
    made.model.save(str(tmp_path))
    edited(tmp_path, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    message = refusal(tmp_path)
    assert "tokenizer.json is missing, which this makes of vocab.json" in message
    carried_out(message, tmp_path)
    reading.inspect(tmp_path)
    found = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert found.encode(TEXT).ids == made.encode(TEXT).ids
    assert json.loads((tmp_path / "vocab.json").read_text())


def test_a_sentencepiece_file_is_told_with_what_it_needs(tmp_path: Path) -> None:
    save(tiny("llama").float(), tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    assert "makes of tokenizer.model (it needs: pip install sentencepiece)" in refusal(tmp_path)
