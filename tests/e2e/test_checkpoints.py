"""The written checkpoints, loaded in fresh processes as their users will load them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import EXAMPLES, MODELS, Demo, clean_environment

PROBE = """
import json, sys
from pathlib import Path
package, folder, padded, source = sys.argv[1:]
if package == "without":
    sys.path = [p for p in sys.path if not (Path(p or ".") / "solvers").is_dir()]
    import importlib.util
    # An editable install leaves data files of ``allocator`` in site-packages, but no code.
    assert importlib.util.find_spec("solvers") is None
    assert getattr(importlib.util.find_spec("allocator"), "origin", None) is None
    options = {"trust_remote_code": True}
else:
    import solvers
    options = {}
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder, **options)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
text = Path(source, "evaluation.txt").read_text()[:1500]
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, :120]
with torch.no_grad():
    logits = model(ids).logits
stock = AutoModelForCausalLM.from_pretrained(padded, dtype=torch.float32).eval()
with torch.no_grad():
    padded_logits = stock(ids).logits
options = dict(max_new_tokens=24, do_sample=False, pad_token_id=0)
with torch.no_grad():
    cached = model.generate(ids[:, :40], return_dict_in_generate=True, **options)
    plain = model.generate(ids[:, :40], use_cache=False, **options)
    batch = model.generate(ids[:, :40].repeat(3, 1), **options)
cache = getattr(cached, "cache", None) or cached.past_key_values  # its name before transformers 5.24
length = cache.get_seq_length()
print(json.dumps({
    "class": type(model).__name__, "module": type(model).__module__, "stock": type(stock).__name__,
    "same_ids": cached.sequences.tolist() == plain.tolist() and batch[1].tolist() == plain[0].tolist(),
    "gap": float((logits - padded_logits).abs().max()), "size": float(logits.abs().max()),
    "cache": [[layer.keys.numel() // length, layer.values.numel() // length] for layer in cache.layers],
    "params": sum(p.numel() for p in model.parameters()),
    "tokens": tokenizer("def f(x):", add_special_tokens=False).input_ids,
    "eos": model.generation_config.eos_token_id,
}))
"""


def probe(demo: Demo, model: str, package: str, cwd: Path) -> dict[str, Any]:
    folder = demo.artifacts(model)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROBE,
            package,
            str(folder / "compact"),
            str(folder / "padded"),
            str(EXAMPLES / model),
        ],
        env=clean_environment(HF_HOME=str(cwd / "hf")),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", ["without", "with"])
@pytest.mark.parametrize("model", MODELS)
def test_compact_and_padded_load_anywhere_and_agree(
    demo: Demo, model: str, package: str, tmp_path: Path
) -> None:
    found, report = probe(demo, model, package, tmp_path), demo.report(model)
    assert found["class"].startswith("Rankalloc")
    assert found["module"].startswith("transformers_modules" if package == "without" else "solvers")
    assert found["stock"] == {"pylm-llama": "LlamaForCausalLM", "pylm-gpt2": "GPT2LMHeadModel"}[model]
    assert found["same_ids"], "generation with the cache equals generation without, alone and in a batch"
    assert found["gap"] <= 1e-4 * found["size"]
    assert found["params"] == report["plan"]["params"]
    geometry = json.loads((demo.artifacts(model) / "plan.json").read_text())["model"]["geometry"]
    planned = [
        [row["qk"] * geometry["kv_heads"], row["ov"] * geometry["kv_heads"]]
        for row in report["plan"]["ranks"]
    ]
    assert found["cache"] == planned
    cached_bytes = geometry["bytes_per_param"] * sum(k + v for k, v in found["cache"])
    assert cached_bytes == report["plan"]["kv_bytes_per_token"]
    from tokenizers import Tokenizer

    source = Tokenizer.from_file(str(EXAMPLES / model / "tokenizer.json"))
    assert found["tokens"] == source.encode("def f(x):", add_special_tokens=False).ids


@pytest.mark.parametrize("model", MODELS)
def test_what_was_measured_is_what_was_written(demo: Demo, model: str) -> None:
    """The report's figures, computed again here from the written checkpoint, the source and the raw texts."""
    import torch
    from transformers import AutoModelForCausalLM

    import solvers  # noqa: F401  registers the compact classes
    from solvers.texts.text import read_text

    report, source = demo.report(model), EXAMPLES / model
    dense = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    cut = AutoModelForCausalLM.from_pretrained(demo.artifacts(model) / "compact", dtype=torch.float32).eval()
    evaluation = read_text(source / "evaluation.txt", source, window=256, what="evaluation").windows[:256]
    measure = read_text(source / "calibration.txt", source, window=256, what="calibration").measure(32)
    with torch.no_grad():
        losses = [float(cut(part, labels=part).loss) * len(part) for part in evaluation.split(16)]
        assert sum(losses) / len(evaluation) == pytest.approx(report["plan"]["evaluation_nll_nats"], rel=1e-4)
        divergences = []
        for part in measure.split(8):
            p, q = (m(part).logits.double().log_softmax(-1) for m in (dense, cut))
            divergences.append((p.exp() * (p - q)).sum(-1).mean(-1))
    assert float(torch.cat(divergences).mean()) == pytest.approx(
        report["plan"]["measured_loss_nats"], rel=1e-3
    )


@pytest.mark.parametrize("model", MODELS)
def test_nothing_but_what_belongs_is_in_the_folders(demo: Demo, model: str) -> None:
    common = {"config.json", "generation_config.json", "model.safetensors", "plan.json", "tokenizer.json"}
    common |= {"tokenizer_config.json", "LICENSE-PSF.txt"}
    compact = {path.name for path in (demo.artifacts(model) / "compact").iterdir()}
    assert compact == common | {"modeling_rankalloc.py", "README.md"}
    assert {path.name for path in (demo.artifacts(model) / "padded").iterdir()} == common
    assert not list((demo.home / "tmp").iterdir())
    names = [str(path) for path in demo.home.rglob("*") if path.is_file()]
    assert not [name for name in names if ".partial" in name]
