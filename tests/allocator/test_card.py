"""The model card: whole, with front matter that parses, and a licence that the base model itself states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from allocator.plan.metrics.registry import SUMMARY
from allocator.report.card import model_card
from allocator.report.document import REPORT_SCHEMA, Report
from allocator.report.licence import UNKNOWN, Licence, licence_of

ROW = {
    "params": 1_111_680,
    "block_params": 1_000_000,
    "kv_bytes_per_token": 1152,
    "flops_per_token": 4_580_480,
    "measured_loss_nats": 0.2524,
    "evaluation_rise_nats": 0.2514,
    "evaluation_nll_nats": 2.8445,
    "evaluation_perplexity": 17.192,
}
DENSE = (*SUMMARY, "evaluation_nll_nats", "evaluation_perplexity")
HUB = f"hf:owner/name@{'0' * 40}"


RANKS = [{"layer": 0, "qk": 8, "ov": 8, "mlp": 64}]
CUT = {**ROW, "ranks": RANKS, "predicted_loss_nats": 0.3, "measured_stderr_nats": 0.01}
PLAN = {**CUT, "digest": "d" * 64, "predicted_loss_nats": 0.0123, "measured_loss_nats": 0.0145}
BUDGET = {
    "metric": "params",
    "text": "params=0.8",
    "limit": 1_200_000,
    "used": 1_111_680,
    "unit": "parameters",
    "binding": True,
    "shadow_price": 1e-6,
}
CERTIFICATE = {
    "status": "optimal",
    "gap": 1e-14,
    "bound": 0.0123,
    "independent_bound": 0.0123,
    "solver": "enumeration",
    "time_s": 0.1,
}


def report(**changed: Any) -> Report:
    """A report as a job writes it."""
    document = {
        "schema": REPORT_SCHEMA,
        "job": "J",
        "model": "local:pylm",
        "weights_sha256": "a" * 64,
        "solver": "a3+",
        "allocation": "ilp",
        "budgets": [BUDGET],
        "request": {},
        "calibration": {"sha256": "c" * 64, "tokens": 50_000, "fit_windows": 192, "measure_windows": 96},
        "evaluation": {"window_tokens": 2048},
        "dense": {**{name: ROW[name] for name in DENSE}, "evaluation_perplexity": 13.37},
        "uniform": CUT,
        "plan": PLAN,
        "certificate": CERTIFICATE,
        "profile": {"key": "p" * 64, "reused": True, "forward_passes": 0},
        "timings_s": {},
        "files": {},
        **changed,
    }
    return Report.read(document)


def card(licence: Licence = UNKNOWN, exports: Sequence[str] = (), **changed: Any) -> str:
    return model_card(report(**changed), licence=licence, solver_version="a3+/4", exports=exports)


def front_matter(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert ModelCard(text).data.to_dict() == found, "the hub's own reader sees the same"
    return found


def test_a_plan_with_bits_says_how_it_is_held_and_need_have_no_uniform_ranks() -> None:
    assert "weight_only" not in card()
    plan = {**PLAN, "ranks": [{**RANKS[0], "bits": {"mlp": 4}}]}
    text = card(plan=plan, uniform=None, uniform_bits=CUT)
    assert "quantization_config=weight_only(name)" in text
    assert "uniform ranks and bits, same budgets" in text
    assert "uniform ranks, same budgets" not in text
    assert "plan's bits" in text


def test_joint_values_are_said_not_to_be_for_vllm() -> None:
    assert "vllm serve" in card(plan={**PLAN, "ranks": [{**RANKS[0], "qk_form": "latent"}]})
    text = card(plan={**PLAN, "ranks": [{**RANKS[0], "ov_form": "joint"}]})
    assert "vllm serve" not in text
    assert "one latent in 1 of its 1 layers" in text


def test_a_gguf_file_is_served_by_the_card() -> None:
    said = "llama-server -m model.gguf"
    assert said not in card()
    assert said in card(exports=["compact", "gguf"])


def test_the_card_says_all_that_there_is_to_say() -> None:
    text = card(Licence("apache-2.0", None, None, "README.md"), model=HUB)
    found = front_matter(text)
    assert found["license"] == "apache-2.0"
    assert found["base_model"] == "owner/name"
    assert found["library_name"] == "transformers"
    assert {"rankalloc", "compressed"} <= set(found["tags"])
    for said in (
        "| `params=0.8` | 1,200,000 parameters | 1,111,680 parameters |",
        "Predicted loss 0.0123, measured\n0.0145 nats/token.",
        f"`{'c' * 64}`: 192 windows to solve on, 96 to measure on",
        "a3+/4",
        f"`{'d' * 64}` (`plan.json` beside this file)",
        "optimal, gap 1.0e-14, by enumeration",
        "`apache-2.0`, by the base model's `README.md`",
        "trust_remote_code=True",
        "| 13.370 |",
        "in windows of 2,048 tokens side by side",
    ):
        assert said in text, said
    assert re.search(r"made by \| rankalloc \S+, solver", text)


@pytest.mark.parametrize(
    ("shared", "said"),
    [(0, "text that nothing saw"), (None, "the evaluation text, in"), (16, "16 of its 64 windows (25 %)")],
)
def test_the_card_says_whether_the_evaluation_text_was_seen(shared: int | None, said: str) -> None:
    evaluation = {"window_tokens": 2048, "windows": 64}
    text = card(evaluation=evaluation if shared is None else {**evaluation, "shared_windows": shared})
    assert said in text
    assert ("nothing saw" in text) == (shared == 0)
    assert ("calibration text**" in text) == bool(shared)


def test_the_card_names_the_method_that_made_the_ranks() -> None:
    paper, plain = card(), card(solver="svd")
    assert "([A3](https://arxiv.org/abs/2505.12942) in closed form)" in paper
    assert "A3" not in plain
    assert "truncated SVD of the weights" in plain
    assert front_matter(paper)["tags"] == ["rankalloc", "compressed", "low-rank", "a3"]
    assert front_matter(plain)["tags"] == ["rankalloc", "compressed", "low-rank", "svd"]


def test_what_is_not_known_is_said_so() -> None:
    text = card(certificate=None)
    assert front_matter(text)["license"] == "unknown"
    assert "base_model" not in front_matter(text), "a local name is none for a hub"
    assert "Unknown, see the base model" in text
    assert "none of its own" in text
    assert "none: uniform ranks" in card(certificate=None, allocation="uniform")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", ("mit", None, None)),
        ("---\nlanguage: en\nlicense: 'Apache-2.0' # ours\n---\n", ("apache-2.0", None, None)),
        ("---\r\nlicense: gemma\r\n---\r\n", ("gemma", None, None)),
        (
            "---\nlicense: other\nlicense_name: acme-1\nlicense_link: https://acme.example/l\n---\n",
            ("other", "acme-1", "https://acme.example/l"),
        ),
        ("license: mit\n", ("unknown", None, None)),
        ("---\nlicense: [mit, x]\n---\n", ("unknown", None, None)),
        ("---\nlicense: mit\n", ("unknown", None, None)),
        ("---\n license: mit\n---\n", ("unknown", None, None)),
        ("# no front matter\n", ("unknown", None, None)),
    ],
)
def test_the_readme_s_front_matter_says_the_licence(
    tmp_path: Path, readme: str, licence: tuple[str, str | None, str | None]
) -> None:
    found = licence_of(write(tmp_path, README_md=readme))
    assert (found.identifier, found.name, found.link) == licence
    text = card(found)
    assert front_matter(text)["license"] == licence[0]


def test_else_the_licence_file_does(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    found = licence_of(write(tmp_path, LICENSE=(root / "LICENSE").read_text(encoding="utf-8")))
    assert (found.identifier, found.file) == ("apache-2.0", "LICENSE")
    found = licence_of(write(tmp_path, LICENSE="ACME Model Licence v2: do\nas you please"))
    assert (found.identifier, found.name) == ("other", "acme-model-licence-v2-do")
    assert front_matter(card(found))["license_name"] == "acme-model-licence-v2-do"
    (tmp_path / "LICENSE").unlink()
    assert licence_of(tmp_path) == UNKNOWN
    (tmp_path / "LICENSE").symlink_to(root / "LICENSE")
    assert licence_of(tmp_path) == UNKNOWN, "links may lead anywhere"


def test_the_example_model_says_its_licence() -> None:
    root = Path(__file__).resolve().parents[2]
    assert licence_of(root / "examples" / "models" / "pylm-llama").identifier == "psf-2.0"


def test_a_hostile_readme_adds_nothing_to_the_front_matter(tmp_path: Path) -> None:
    readme = "---\nlicense: mit\nlicense_name: x:y\nlicense_link: javascript:alert(1)\n---\n"
    found = front_matter(card(licence_of(write(tmp_path, README_md=readme))))
    assert "license_name" not in found
    assert "license_link" not in found
