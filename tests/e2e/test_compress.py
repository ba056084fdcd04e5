"""``rankalloc compress``: the one-shot command on the demo's store, its exit statuses, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from solvers.texts.text import read_text
from tests.e2e.conftest import EXAMPLES, Demo
from tests.support import damage
from tests.support.command import run


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_command_line_shares_the_profile_and_never_reads_evaluation_text(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same model and calibration as the demo's job, another evaluation text: no pass, and byte-identical weights."""
    other = tmp_path / "other.txt"
    other.write_text("The quick brown fox jumps over the lazy dog. " * 1200, encoding="utf-8")
    budgets = ["--budget", "block_params=0.8", "--budget", "kv_bytes_per_token=0.75"]
    code, out, _ = run(
        capsys, monkeypatch, demo.home, "compress", EXAMPLES / "pylm-gpt2", "--evaluation", other, *budgets,
        "--out", tmp_path / "out", "--export", "compact", "--baselines", "none", "--json",
    )  # fmt: skip
    assert code == 0
    report, first = json.loads(out), demo.report("pylm-gpt2")
    assert report["model"] == "path:pylm-gpt2", "the profile was made under another name"
    assert str(EXAMPLES) not in out
    assert report["profile"] == {"key": first["profile"]["key"], "reused": True, "forward_passes": 0}
    assert report["plan"]["ranks"] == first["plan"]["ranks"]
    assert report["plan"]["digest"] == first["plan"]["digest"]
    assert report["plan"]["evaluation_nll_nats"] != first["plan"]["evaluation_nll_nats"]
    weights = "compact/model.safetensors"
    assert sha256(tmp_path / "out" / weights) == sha256(demo.artifacts("pylm-gpt2") / weights)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "compact",
        "plan.json",
        "report.html",
        "report.json",
    ]


@pytest.mark.parametrize("model", ["pylm-gpt2", "pylm-llama"])
def test_what_the_report_says_a_model_writes_is_what_transformers_writes(demo: Demo, model: str) -> None:
    """Of the dense folder and of the delivered checkpoint, loaded anew."""
    import solvers  # noqa: F401  (registers the compact classes)

    table = demo.report(model)["continuations"]
    text = read_text(EXAMPLES / model / "evaluation.txt", EXAMPLES / model, window=256, what="evaluation")
    assert 3 <= len(table) <= 5
    tokenizer = Tokenizer.from_file(str(EXAMPLES / model / "tokenizer.json"))
    for name, folder in (("dense", EXAMPLES / model), ("plan", demo.artifacts(model) / "compact")):
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for row in table:
            starts = text.windows[:, :24].tolist()
            (prompt,) = {tuple(ids) for ids in starts if tokenizer.decode(ids) == row["prompt"]}
            given = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt)).long()}
            ids = loaded.generate(**given, max_new_tokens=32, do_sample=False)[0].tolist()
            assert tokenizer.decode(ids) == row["prompt"] + row[name]
    assert any(row["dense"] != row["plan"] for row in table)
    html = (demo.artifacts(model) / "report.html").read_text(encoding="utf-8")
    assert "What it writes" in html
    assert escape(table[0]["plan"]) in html
    assert (
        0.5
        < demo.report(model)["uniform_a3"]["top1_agreement"]
        < demo.report(model)["plan"]["top1_agreement"]
        < 1
    )


def test_uniform_allocation_is_the_plan_s_own_baseline(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(
        capsys, monkeypatch, demo.home, "compress", EXAMPLES / "pylm-gpt2", "--allocation", "uniform",
        "--budget", "block_params=0.8", "--budget", "kv_bytes_per_token=0.75", "--out", tmp_path / "out",
        "--baselines", "none", "--json",
    )  # fmt: skip
    assert code == 0, err
    report, first = json.loads(out), demo.report("pylm-gpt2")
    assert report["plan"]["ranks"] == first["uniform"]["ranks"]
    assert report["certificate"] is None
    assert report["plan"]["measured_loss_nats"] == pytest.approx(
        first["uniform"]["measured_loss_nats"], rel=1e-3
    )


def test_an_infeasible_budget_exits_3_and_names_the_least_value(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(
        capsys, monkeypatch, demo.home, "compress", EXAMPLES / "pylm-llama", "--budget", "params=0.001",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 3
    assert "is the least that any ranks reach" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (
            damage.unknown_family,
            "model family 'mamba' is not supported; supported: gemma, gemma2, gemma3_text, gpt2, ",
        ),
        (damage.cut_weights, "model.safetensors is not a sound safetensors file"),
        (damage.second_truth, "holds both model.safetensors and model.safetensors.index.json"),
        (damage.redirected_weights, "redirects the weights"),
        (damage.fewer_layers, "says 3 layers, the weights hold 6"),
        (damage.absurd_layers, "says 2000000000 layers, the weights hold 6"),
        (damage.text_for_a_size, "hidden_size is 'x'; it must be a whole number"),
        (damage.no_heads, "num_attention_heads is 0; it must be a whole number"),
        (damage.uneven_heads, "cannot share 3 key/value heads evenly"),
        (damage.odd_heads, "head_dim 31 is odd"),
        (damage.other_vocabulary, "vocabulary x hidden (500, 128), the weights hold"),
        (damage.sliding, "llama models with a sliding window are not supported"),
        (damage.strange_tokenizer_options, "tokenizer_config.json must hold a JSON object"),
        (damage.lying_header, "model.safetensors is not a sound safetensors file"),
        (damage.escaping_index, "is not a bare name inside the model folder"),
        (damage.no_weights, "model.safetensors is missing"),
        (damage.no_tokenizer, "tokenizer.json is missing"),
        (damage.broken_tokenizer, "the tokenizer does not load"),
        (damage.linked_weights, "is a link that leaves the model folder"),
        (damage.empty_text, "calibration text calibration.txt: empty"),
        (damage.short_text, "evaluation text evaluation.txt: too short: "),
        (damage.binary_text, "not UTF-8 at byte 0"),
        (damage.no_text, "has no calibration.txt; name a text with --calibration"),
    ],
)
def test_bad_models_and_texts_exit_2_with_one_line_and_leave_nothing(
    harm: Any,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = damage.copied(tmp_path)
    harm(model)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(
        capsys,
        monkeypatch,
        tmp_path / "home",
        "compress",
        model,
        "--budget",
        "params=0.8",
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "params=0"], "must be a fraction in (0, 1] or a number >= 2"),
        (["--budget", "params=1.5"], "must be a fraction in (0, 1] or a number >= 2"),
        (["--budget", "params=abc"], "must be a fraction in (0, 1] or a number >= 2"),
        (
            ["--budget", "speed=0.5"],
            "one of params, block_params, kv_bytes_per_token, flops_per_token, memory",
        ),
        (
            ["--budget", "params=0.8", "--solver", "pca"],
            "'pca' is not a3 or a3+ or a3+joint or a3+latent or svd",
        ),
        (
            ["--budget", "params=0.8", "--effort", "huge"],
            "'huge' is not gradient or fast or standard or thorough",
        ),
        (["--budget", "params=0.8", "--allocation", "magic"], "'magic' is not ilp or uniform"),
        (["--budget", "params=0.8", "--export", "onnx"], "'onnx' is not compact or padded or stock or gguf"),
        (["--budget", "params=0.8", "--export", "gguf"], "export: gguf works beside --target llama.cpp"),
        (["--budget", "params=0.8", "--calibration", "nowhere.txt"], "no such file"),
        ([], "Missing option '--budget'"),
    ],
)
def test_bad_usage_exits_2_and_says_what_is_allowed(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, _, err = run(
        capsys,
        monkeypatch,
        tmp_path / "home",
        "compress",
        EXAMPLES / "pylm-llama",
        "--out",
        tmp_path / "out",
        *arguments,
    )
    assert code == 2
    assert says in err
    assert not list(tmp_path.iterdir())


def test_a_missing_model_and_a_taken_folder_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = ["--budget", "params=0.8"]
    code, _, err = run(
        capsys, monkeypatch, tmp_path / "home", "compress", tmp_path / "no", "--out", tmp_path / "o", *budget
    )
    assert (code, "no such folder" in err) == (2, True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("keep me")
    model = EXAMPLES / "pylm-llama"
    code, _, err = run(
        capsys, monkeypatch, tmp_path / "home", "compress", model, "--out", tmp_path / "taken", *budget
    )
    assert (code, "is not an empty folder" in err) == (2, True)
    assert (tmp_path / "taken" / "mine.txt").read_text() == "keep me"
    assert not (tmp_path / "home").exists()


def test_weights_of_other_sizes_than_the_config_s_fail_the_job_with_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = damage.copied(tmp_path)
    damage.wrong_intermediate(model)
    code, _, err = run(
        capsys,
        monkeypatch,
        tmp_path / "home",
        "compress",
        model,
        "--budget",
        "params=0.8",
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "its tensors have other sizes than config.json says" in err or "tensors are misshapen" in err
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    model = damage.copied(tmp_path)
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:500].contiguous()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    damage.change_config(model, vocab_size=500)
    code, _, err = run(
        capsys,
        monkeypatch,
        tmp_path / "home",
        "compress",
        model,
        "--budget",
        "params=0.8",
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "the tokenizer is of another model" in err
    assert not (tmp_path / "home").exists()


def test_a_companion_that_links_outside_is_not_copied(tmp_path: Path) -> None:
    from solvers.checkpoints.writing import _copy_companions
    from solvers.errors import UnreadableModelError

    model, secret = damage.copied(tmp_path), tmp_path / "secret"
    secret.write_text("password")
    (model / "tokenizer.model").symlink_to(secret)
    (tmp_path / "out").mkdir()
    with pytest.raises(UnreadableModelError, match="link that leaves the model folder"):
        _copy_companions(model, tmp_path / "out", "llama", compact=True)
    assert not (tmp_path / "out" / "tokenizer.model").exists()


def test_not_a_number_in_the_weights_fails_the_job_with_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found only when weights are loaded, hence inside the job; the status is the same as for what is found before."""
    import torch
    from safetensors.torch import load_file, save_file

    model = damage.copied(tmp_path)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    code, _, err = run(
        capsys,
        monkeypatch,
        tmp_path / "home",
        "compress",
        model,
        "--budget",
        "params=0.8",
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "up_proj.weight holds NaN or infinite values" in err
    assert not (tmp_path / "out").exists()
