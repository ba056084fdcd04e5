"""``--export gguf`` through the command: a trained example model, served by stock llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from allocator.plan.targets.registry import PLAIN
from allocator.stages.exports import EXPORTS, default_exports
from api.schemas.requests import JobRequest
from tests.support import damage
from tests.support.command import run
from tests.support.exports import edited
from tests.support.llama_cpp import LlamaCpp

Command = Callable[..., tuple[int, str, str]]
QUICK = ("--refine", "0", "--solver", "a3", "--baselines", "none", "--samples", "16")
TARGET = ("--target", "llama.cpp")
TEXT = "def main(argv):\n    if len(argv) < 2:\n        return"


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``rankalloc`` in this process: exit status, standard output, standard error."""
    monkeypatch.setenv("RANKALLOC_THREADS", "1")

    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run(capsys, monkeypatch, tmp_path / "home", *arguments)

    return called


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The example model, whose texts are cut as GPT-2's: its own tokenizer cuts by lines, which llama.cpp has no name for."""
    folder = damage.brief(tmp_path, window=64, calibration=12_000, layers=3)
    evaluation = folder / "evaluation.txt"
    evaluation.write_text(evaluation.read_text()[:6_000])
    cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return edited(folder, "tokenizer.json", pre_tokenizer=cut)


def test_a_plan_with_mlp_ranks_by_layer_is_served_and_another_refused_at_once(
    model: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    exports = TARGET
    code, _, shown = command(
        "compress", model, "--budget", "block_params=0.8", *QUICK, *exports, "--out", out
    )
    assert code == 0, shown
    assert {path.name for path in (out / "gguf").iterdir()} == {
        "model.gguf",
        "model-q8_0.gguf",
        "plan.json",
        "README.md",
    }
    assert "llama-server -m model.gguf" in (out / "gguf" / "README.md").read_text()
    plan = json.loads((out / "gguf" / "plan.json").read_text())
    mlp = [row["mlp"] for row in plan["ranks"]]
    assert len(set(mlp)) > 1
    fields = GGUFReader(out / "gguf" / "model.gguf").fields
    assert fields["deci.feed_forward_length"].contents() == mlp
    down = [
        tensor.tensor_type
        for tensor in GGUFReader(out / "gguf" / "model-q8_0.gguf").tensors
        if ".ffn_down." in tensor.name
    ]
    assert down == [GGMLQuantizationType.Q8_0] * len(mlp)

    tokenizer = Tokenizer.from_file(str(out / "compact" / "tokenizer.json"))
    ids = tokenizer.encode(TEXT).ids
    compact = AutoModelForCausalLM.from_pretrained(
        out / "compact", trust_remote_code=True, dtype=torch.float32
    )
    expected = compact.generate(torch.tensor([ids]), max_new_tokens=24, min_new_tokens=24, do_sample=False)
    with torch.no_grad():
        last = compact(expected).logits.log_softmax(-1)[0, -1]
    for name, close in (("model.gguf", 0.02), ("model-q8_0.gguf", 0.2)):
        with LlamaCpp(out / "gguf" / name) as served:
            assert served.tokens(TEXT) == ids
            assert served.continued(TEXT, 24) == expected[0, len(ids) :].tolist()
            plain = served.tokens("a", special=False)[0]
            found = served.log_probabilities(expected[0].tolist(), len(last), plain=plain)
        assert torch.tensor(found).exp() == pytest.approx(last.exp(), abs=close), name

    key, other = json.loads((out / "report.json").read_text())["profile"]["key"], tmp_path / "other"
    code, _, shown = command(
        "plan", key, "--budget", "kv_bytes_per_token=0.75", "--out", tmp_path / "plan.json"
    )
    assert code == 0, shown
    code, _, shown = command("apply", tmp_path / "plan.json", model, "--export", "gguf", "--out", other)
    assert (code, "and llama.cpp holds the full rank" in shown) == (2, True), shown
    assert not other.exists()


def test_what_llama_cpp_cannot_run_is_refused_before_anything_is_measured(
    model: Path, tmp_path: Path, command: Command
) -> None:
    asked = (
        "compress",
        model,
        "--budget",
        "block_params=0.8",
        *QUICK,
        "--export",
        "gguf",
        "--out",
        tmp_path / "out",
    )
    code, _, shown = command(*asked)
    assert (code, "export: gguf works beside --target llama.cpp or llama.cpp-kv" in shown) == (2, True), shown
    code, _, shown = command(*asked, *TARGET, "--pin", "0.qk=8")
    assert (code, "layer 0 qk may take 32 under the other constraints" in shown) == (2, True), shown
    damage.change_config(model, hidden_act="relu")
    code, _, shown = command(*asked, *TARGET)
    assert (code, "gguf: hidden_act is 'relu'" in shown) == (2, True), shown
    assert not (tmp_path / "out").exists()
    code, printed, _ = command("profiles", "list", "--json")
    assert (code, json.loads(printed)["items"]) == (0, [])


def test_all_exports_may_be_asked_for_at_once_and_gguf_is_none_that_comes_unasked() -> None:
    body = {"kind": "compress", "model": "local:pylm-llama", "budgets": ["params=0.8"], "export": [*EXPORTS]}
    assert JobRequest.model_validate(body).export == [*EXPORTS]
    assert default_exports(PLAIN) == ["compact", "padded"]
