"""``rankalloc evaluate``: the report's figures again, from the folders alone, and refusals that name the way out."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.hostile.folders import DETOURS
from tests.support.command import run
from tests.support.damage import change_config
from tests.support.models import save, tiny

FAMILIES = ("llama", "gpt2")


class Made:
    """A model, what ``compress`` made of it, and the command in this process."""

    def __init__(self, family: str, at: Path, capsys: Any, monkeypatch: Any) -> None:
        self.home, self.model, self.out = at / "home", at / "model", at / "out"
        self._capsys, self._monkeypatch = capsys, monkeypatch
        if not self.out.exists():  # the first test of a family makes it for all
            self._make(family)
        self.report = json.loads((self.out / "report.json").read_text(encoding="utf-8"))

    def _make(self, family: str) -> None:
        save(tiny(family).to(torch.bfloat16), self.model)
        words = random.Random(0)
        for name in ("calibration.txt", "evaluation.txt"):
            text = " ".join(f"w{words.randrange(61)}" for _ in range(6000))
            (self.model / name).write_text(text, encoding="utf-8")
        options = ["--budget", "block_params=0.7", "--effort", "fast", "--refine", "0"]
        self._capsys.readouterr()  # what transformers tells while it writes the model
        code, printed, shown = self.run("compress", self.model, "--out", self.out, *options, "--quiet")
        assert (code, shown, "mixed plan" in printed) == (0, "", True), shown

    def run(self, *arguments: object) -> tuple[int, str, str]:
        return run(self._capsys, self._monkeypatch, self.home, *arguments)

    def evaluated(self, folder: Path, *more: object) -> dict[str, Any]:
        code, printed, shown = self.run("evaluate", folder, *more, "--json")
        assert code == 0, shown
        found: dict[str, Any] = json.loads(printed)
        return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(params=FAMILIES)
def made(
    request: pytest.FixtureRequest,
    shared: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Made:
    monkeypatch.setenv("RANKALLOC_THREADS", "1")
    return Made(request.param, shared / request.param, capsys, monkeypatch)


def test_a_checkpoint_has_the_figures_of_its_report(made: Made) -> None:
    found = made.evaluated(made.out / "compact", "--dense", made.model)
    for ours, theirs in (("model", "plan"), ("dense", "dense")):
        for name in ("params", "kv_bytes_per_token"):
            assert found[ours][name] == made.report[theirs][name], (ours, name)
        for name in ("evaluation_nll_nats", "evaluation_perplexity"):
            assert found[ours][name] == pytest.approx(made.report[theirs][name], rel=1e-6), (ours, name)
    assert found["evaluation_rise_nats"] == pytest.approx(
        made.report["plan"]["evaluation_rise_nats"], abs=1e-6
    )
    padded = made.evaluated(made.out / "padded", "--evaluation", made.model / "evaluation.txt")
    assert padded["model"]["evaluation_nll_nats"] == pytest.approx(
        found["model"]["evaluation_nll_nats"],
        abs=2e-2,  # padded weights are folded and rounded once more
    )
    assert padded["model"]["params"] == made.report["dense"]["params"]
    assert "dense" not in padded


def test_the_divergence_is_that_of_the_two_models_logits(made: Made) -> None:
    found = made.evaluated(made.out / "compact", "--dense", made.model)
    from solvers.texts.text import read_text

    dense, cut = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (made.model, made.out / "compact")
    )
    text = read_text(made.model / "evaluation.txt", made.model, window=64, what="evaluation")
    kl, same = [], []
    with torch.no_grad():
        for part in text.windows.split(16):
            p, q = (m(part).logits.double().log_softmax(-1) for m in (dense, cut))
            kl.append((p.exp() * (p - q)).sum(-1).mean(-1))
            same.append((p.argmax(-1) == q.argmax(-1)).double().mean(-1))
    assert found["kl_nats"] == pytest.approx(float(torch.cat(kl).mean()), rel=1e-4)
    assert found["top1_agreement"] == pytest.approx(float(torch.cat(same).mean()), abs=2e-3)
    assert found["evaluation"]["windows"] == len(text.windows)


def test_people_get_a_table(made: Made) -> None:
    code, printed, shown = made.run("evaluate", made.out / "compact", "--dense", made.model, "--quiet")
    assert shown == ""
    assert code == 0
    assert f"{made.report['plan']['params']:,}" in printed
    assert "KL to the dense model" in printed
    assert "same next token at " in printed


def test_what_cannot_be_evaluated_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    compact, text = made.out / "compact", made.model / "evaluation.txt"
    broken = tmp_path / "broken"
    shutil.copytree(compact, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    unknown = tmp_path / "unknown"
    shutil.copytree(compact, unknown)
    config = json.loads((unknown / "config.json").read_text(encoding="utf-8"))
    (unknown / "config.json").write_text(json.dumps({**config, "model_type": "rankalloc_other"}))
    other = tmp_path / "other"
    save(tiny("llama", vocab_size=77).float(), other)
    for arguments, said in (
        ((compact,), "no evaluation.txt in compact; name a text with --evaluation"),
        ((tmp_path / "none", "--evaluation", text), "no such folder"),
        ((broken, "--evaluation", text), "not a sound safetensors file"),
        ((unknown, "--evaluation", text), "'rankalloc_other' is no compact checkpoint of this version"),
        ((compact, "--evaluation", tmp_path / "none.txt"), "no such file; name a UTF-8 text file"),
        (
            (compact, "--evaluation", text, "--dense", other),
            "name the model that the checkpoint was made from",
        ),
    ):
        code, printed, shown = made.run("evaluate", *arguments, "--json")
        assert (code, printed) == (2, ""), shown
        assert said in " ".join(shown.split()), shown


def test_code_beside_a_checkpoint_is_never_run(made: Made, tmp_path: Path) -> None:
    """Compact folders name their modeling file for others (auto_map); here it is this package's own that runs."""
    folder = tmp_path / "compact"
    shutil.copytree(made.out / "compact", folder)
    (folder / "modeling_rankalloc.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    assert made.evaluated(folder, "--evaluation", made.model / "evaluation.txt")["model"]["params"]


@pytest.mark.parametrize("name", sorted(DETOURS))
def test_what_is_loaded_is_what_was_looked_at(made: Made, tmp_path: Path, name: str) -> None:
    harm, said = DETOURS[name]
    folder = tmp_path / "compact"
    shutil.copytree(made.out / "compact", folder)
    harm(folder)
    code, printed, shown = made.run(
        "evaluate", folder, "--evaluation", made.model / "evaluation.txt", "--json"
    )
    assert (code, printed) == (2, ""), shown
    assert said in " ".join(shown.split())


@pytest.mark.parametrize("kind", ["compact", "stock"])
def test_attention_is_ours_whatever_a_config_names(made: Made, tmp_path: Path, kind: str) -> None:
    """Named in a config, "flash_attention_2" would be looked for on the hub where a kernels package is installed."""
    from solvers.checkpoints import reading
    from solvers.checkpoints.written import load_written

    folder = tmp_path / kind
    shutil.copytree(made.out / "compact" if kind == "compact" else made.model, folder)
    change_config(folder, _attn_implementation="flash_attention_2")
    model = load_written(folder) if kind == "compact" else reading.load(reading.inspect(folder))
    assert model.config._attn_implementation == "sdpa"


def test_damaged_sizes_of_a_compact_checkpoint_are_refused(made: Made, tmp_path: Path) -> None:
    from solvers.checkpoints.written import load_written
    from solvers.errors import UnreadableModelError, UnsupportedModelError

    for number, (changes, said) in enumerate(
        (
            ({"max_position_embeddings": 1, "n_positions": 1}, "positions|does not load"),
            ({"qk_ranks": [2]}, "does not load"),
            ({"mlp_ranks": [-1, 4]}, "does not load"),
            ({"quantization_config": {"quant_method": "torchao"}}, "is quantized"),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(made.out / "compact", folder)
        change_config(folder, **changes)
        with pytest.raises((UnreadableModelError, UnsupportedModelError), match=said):
            load_written(folder)
    tensors = load_file(made.out / "compact" / "model.safetensors")
    pairs = [name for name in tensors if name.endswith(".pairs")]
    mixed = tmp_path / "mixed"
    shutil.copytree(made.out / "compact", mixed)
    some = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file(tensors | {some: tensors[some].float()}, mixed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UnsupportedModelError,
        match="layer 0: attention and MLP are stored as BF16, F32 among weights in BF16",
    ):
        load_written(mixed)
    if pairs:
        beyond = tmp_path / "beyond"
        shutil.copytree(made.out / "compact", beyond)
        changed = tensors | {pairs[0]: torch.full_like(tensors[pairs[0]], 200)}
        save_file(changed, beyond / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UnreadableModelError, match="names rotary pair 200"):
            load_written(beyond)


def test_models_of_other_lengths_and_families(made: Made, tmp_path: Path) -> None:
    text = made.model / "evaluation.txt"
    other = tmp_path / "other"
    save(tiny("gpt2" if made.model.parent.name == "llama" else "llama").float(), other)
    code, _, shown = made.run("evaluate", made.out / "compact", "--dense", other, "--evaluation", text)
    assert (code, "--dense: its family is" in " ".join(shown.split())) == (2, True), shown
    short = tmp_path / "short"
    save(tiny(made.model.parent.name, max_position_embeddings=32).float(), short)
    shutil.copy(made.model / "tokenizer.json", short)
    found = made.evaluated(made.out / "compact", "--dense", short, "--evaluation", text)
    assert found["evaluation"]["tokens"] == 32 * found["evaluation"]["windows"]
