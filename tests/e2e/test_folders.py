"""Model folders as the hub has them, through the commands."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.support.command import run
from tests.support.exports import edited, in_hub_cache
from tests.support.models import save, tiny
from tests.support.published import TEXT, a_vocabulary_and_merges

Command = Callable[..., tuple[int, str, str]]
QUICK = ("--budget", "block_params=0.7", "--effort", "fast", "--refine", "0")


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``rankalloc`` in this process: exit status, standard output, standard error."""
    monkeypatch.setenv("RANKALLOC_THREADS", "1")

    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()  # what transformers tells while it writes a model
        return run(capsys, monkeypatch, tmp_path / "home", *arguments)

    return called


def with_texts(folder: Path, model: Any) -> Path:
    """A folder of the model with the two texts that ``compress`` takes by default."""
    save(model, folder)
    words = random.Random(0)
    for name in ("calibration.txt", "evaluation.txt"):
        text = " ".join(f"w{words.randrange(model.config.vocab_size)}" for _ in range(6000))
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_code_that_is_left_aside_is_told(tmp_path: Path, command: Command) -> None:
    source, out = with_texts(tmp_path / "source", tiny("phi3").to(torch.bfloat16)), tmp_path / "out"
    edited(
        source, auto_map={"AutoConfig": "own--modeling.Config", "AutoModelForCausalLM": "own--modeling.Model"}
    )
    said = "config.json names code of its own (auto_map): left aside, phi3 is transformers' own here"
    code, _, shown = command("compress", source, *QUICK, "--out", out)
    assert (code, shown.count(said)) == (0, 1), shown
    assert "auto_map" not in json.loads((out / "padded" / "config.json").read_text())
    code, _, shown = command("evaluate", out / "compact", "--dense", source)
    assert (code, shown.count(said)) == (0, 1), shown
    code, _, shown = command("evaluate", out / "padded", "--evaluation", source / "evaluation.txt")
    assert (code, said in shown) == (0, False), shown


def test_a_commit_in_the_hubs_cache_is_compressed_and_called_by_its_name(
    tmp_path: Path, command: Command
) -> None:
    plain = with_texts(tmp_path / "plain", tiny("llama").to(torch.bfloat16))
    (plain / "LICENSE").write_text(
        'Permission is hereby granted, free of charge ... THE SOFTWARE IS PROVIDED "AS IS"'
    )
    snapshot, out = in_hub_cache(plain, tmp_path / "hub"), tmp_path / "out"
    code, _, shown = command("compress", snapshot, *QUICK, "--out", out)
    assert code == 0, shown
    report = json.loads((out / "report.json").read_text())
    assert report["model"] == "path:owner/name@0123456"
    card = (out / "compact" / "README.md").read_text()
    assert "license: mit" in card
    assert "base_model: owner/name" in card
    assert "# owner/name, compressed by mixed ranks" in card
    assert (out / "compact" / "LICENSE").read_bytes() == (plain / "LICENSE").read_bytes()
    code, printed, shown = command("evaluate", out / "compact", "--dense", snapshot, "--json")
    assert (code, json.loads(printed)["dense"]["name"]) == (0, "owner/name@0123456"), shown
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(plain / "config.json")
    code, _, shown = command("compress", snapshot, *QUICK, "--out", tmp_path / "other")
    assert (code, "owner/name@0123456: config.json is a link that leaves the model folder" in shown) == (
        2,
        True,
    )


def test_norms_of_another_type_and_texts_that_end_in_eos(tmp_path: Path, command: Command) -> None:
    """Gemma 3 as it is published, norms kept in float32, and a tokenizer that puts both ends around a text."""
    source, out = with_texts(tmp_path / "source", tiny("gemma3_text").to(torch.bfloat16)), tmp_path / "out"
    edited(source, cache_implementation="hybrid")
    tensors = load_file(source / "model.safetensors")
    norms = {name: tensor.float() * 1.001 for name, tensor in tensors.items() if "norm" in name}
    save_file(tensors | norms, source / "model.safetensors", metadata={"format": "pt"})
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    ends = [("w0", 0), ("w1", 1)]
    tokenizer.post_processor = TemplateProcessing(single="w0 $A w1", pair="w0 $A w1 $B", special_tokens=ends)
    tokenizer.save(str(source / "tokenizer.json"))
    code, _, shown = command("compress", source, *QUICK, "--out", out)
    assert code == 0, shown
    report = json.loads((out / "report.json").read_text())
    for folder in (out / "compact", out / "padded"):
        written = load_file(folder / "model.safetensors")
        for name, tensor in written.items():
            assert (
                not tensor.is_floating_point()
                or tensor.dtype == norms.get(name, tensors["model.norm.weight"]).dtype
            )
            assert name not in norms or torch.equal(tensor, norms[name])
    code, printed, shown = command("evaluate", out / "compact", "--dense", source, "--json")
    assert code == 0, shown
    found = json.loads(printed)
    for ours, theirs in (("model", "plan"), ("dense", "dense")):
        for name in ("params", "kv_bytes_per_token"):
            assert found[ours][name] == report[theirs][name]
        expected = pytest.approx(report[theirs]["evaluation_nll_nats"], rel=1e-6)
        assert found[ours]["evaluation_nll_nats"] == expected


def test_a_vocabulary_and_merges_are_enough(tmp_path: Path, command: Command) -> None:
    """OPT and GPT-2 as they were first exported."""
    source, out = with_texts(tmp_path / "source", tiny("gpt2", vocab_size=300).float()), tmp_path / "out"
    made = a_vocabulary_and_merges(source)
    code, _, shown = command("compress", source, *QUICK, "--export", "compact", "--out", out)
    assert code == 0, shown
    assert not (source / "tokenizer.json").exists()
    written = Tokenizer.from_file(str(out / "compact" / "tokenizer.json"))
    assert written.encode(TEXT).ids == made.encode(TEXT).ids
    code, printed, shown = command("evaluate", out / "compact", "--dense", source, "--json")
    assert code == 0, shown
    assert json.loads(printed)["dense"]["name"] == "source"
