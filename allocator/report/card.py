"""The model card of a compact checkpoint, with the front matter that a Hugging Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from allocator.base.references import hub_model
from allocator.base.version import installed_version
from allocator.methods.registry import METHODS
from allocator.plan.ask.choices import UNIFORM
from allocator.plan.baselines import UNIFORM_BITS, UNIFORM_RATIO
from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.plan.model.precision import JOINT
from allocator.plan.targets.llama_cpp import GGUF
from allocator.report.document import CalibrationText, CutFigures, EvaluationText, ModelFigures, Report
from allocator.report.licence import Licence
from allocator.report.rows import ROWS

_QUANTIZED_LOSSES = """ Losses are of the model as torchao holds it in the
plan's bits."""
_QUANTIZED_LOADING = """
The plan gave components eight or four bits (`plan.json`, `bits` in `ranks`). The files keep all weights in the checkpoint's own
type, unrounded: loaded as above they take the room of that type. To hold them in the bits that the budget counted, which gives
exactly the weights that were measured, on the CPU:

```python
from solvers.quantization import weight_only  # pip install 'rankalloc[worker,quantize]'

model = AutoModelForCausalLM.from_pretrained(name, quantization_config=weight_only(name))
```
"""
_LLAMA_CPP = """
## How to serve it with llama.cpp

The same compression wrote `gguf/`: `model.gguf` in float16, `model-q8_0.gguf` in eight bits. Stock llama.cpp loads them:

```sh
llama-server -m model.gguf
```

They name the graph of llama.cpp that has room for these ranks (`general.architecture`), which need not be the base model's own.
"""
_BESIDE = (UNIFORM_RATIO, UNIFORM_BITS)
"""What the model is compared with."""
_CACHED = re.compile(r"path:([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)@[0-9a-f]{7}")
"""A commit in the hub's own cache, as a command was given it by its path."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")


def model_card(
    report: Report,
    *,
    licence: Licence,
    solver_version: str,
    exports: Sequence[str] = (),
) -> str:
    """Markdown for the checkpoint's README.md: where it comes from, how it was made, what it costs, how it loads.

    Args:
        licence: of the base model.
        solver_version: such as ``a3+/4``.
        exports: names of what was written.
    """
    plan, calibration, evaluation = report.plan, report.calibration, report.evaluation
    method = METHODS[report.solver]
    beside: dict[str, CutFigures | None] = {
        f"{ROWS[name].title}, same budgets": getattr(report, name) for name in _BESIDE
    }
    if report.healed is not None:
        beside["before healing"] = plan
    beside["**this model**"] = report.healed or plan
    budgets = "\n".join(
        f"| `{budget.text}` | {budget.limit:,} {budget.unit} | {budget.used:,} {budget.unit} |"
        for budget in report.budgets
    )

    def line(name: str, figures: ModelFigures, loss: str, rise: str) -> str:
        return (
            f"| {name} | {' | '.join(f'{figures.costs[metric]:,}' for metric in SUMMARY)} "
            f"| {loss} | {rise} | {figures.evaluation_perplexity:.3f} |"
        )

    rows = "\n".join(
        line(name, figures, f"{figures.measured_loss_nats:.4f}", f"{figures.evaluation_rise_nats:.4f}")
        for name, figures in beside.items()
        if figures is not None
    )
    costs = [METRICS[metric].short for metric in SUMMARY]
    facts = {
        "base model": f"`{report.model}`, weights sha256 `{report.weights_sha256}`",
        "made by": f"rankalloc {installed_version()}, solver `{solver_version}`"
        f" ({method.credit}), allocation `{report.allocation}`",
        "plan": f"`{plan.digest}` (`plan.json` beside this file)",
        "proof": _proof(report),
        "profile": f"`{report.profile.key}`",
        "calibration": f"{_documents(calibration)}{calibration.tokens:,} tokens, sha256 `{calibration.sha256}`:"
        f" {calibration.fit_windows} windows to solve on, {calibration.measure_windows} to measure on",
    }
    made = "\n".join(f"| {name} | {text} |" for name, text in facts.items())
    return f"""{_front_matter(report.model, licence, method.tag)}
# {report.model.split(":", 1)[-1].partition("@")[0]}, compressed by mixed ranks

The query/key, value/output and MLP parts of every layer were cut to ranks of their own, chosen so that the model loses least
under these budgets:

| budget | limit | used |
|---|---|---|
{budgets}

## What it costs and what it loses

| | {" | ".join(costs)} | loss, nats/token | rise on evaluation text, nats/token | perplexity |
{"|---" * (len(SUMMARY) + 4)}|
{line("dense", report.dense, "0", "0")}
{rows}

*Loss* is the KL divergence to the dense model on calibration text that the solver did not see; *rise* and perplexity are on
{_evaluation_text(evaluation)}, in windows of {evaluation.window_tokens:,} tokens side by side.
FLOPs are of a prefill of 2048 tokens. Predicted loss {plan.predicted_loss_nats:.4f}, measured
{plan.measured_loss_nats:.4f} nats/token{_healing(report)}.{_QUANTIZED_LOSSES if report.quantized else ""}

## How it was made

| | |
|---|---|
{made}

## Licence

{_licence_text(licence)}

## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "."  # this folder, or the name of this repository; needs transformers 5
# The folder carries its own model class; with rankalloc installed, `import solvers` makes the flag unnecessary.
model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)  # needs none; unsaid, it is asked for
```

{_engine(plan)}
{_QUANTIZED_LOADING if report.quantized else ""}{_LLAMA_CPP if GGUF in exports else ""}"""


def _engine(plan: CutFigures) -> str:
    """Whether vLLM serves it."""
    if count := sum(JOINT in row.latents for row in plan.ranks):
        return (
            f"Values of all heads come from one latent in {count} of its {len(plan.ranks)} layers, which vLLM's cache does not"
            " hold: transformers alone serves it."
        )
    return "vLLM serves the folder as it is (0.32; all families but MPT): `vllm serve . --trust-remote-code`."


def _documents(text: CalibrationText) -> str:
    """``1,234 texts of `hf:owner/name@commit:config:split`, ``; nothing of a plain text."""
    source = (text.source or "").replace("`", "")  # it has names that a hub gave
    of = f" of `{source}`" if source else ""
    return f"{text.documents:,} {text.form}{of}, " if of or text.documents > 1 else ""


def _evaluation_text(evaluation: EvaluationText) -> str:
    if evaluation.seen:
        return f"a text on which they say too little (**{evaluation.seen}**)"
    return "text that nothing saw" if evaluation.shared_windows == 0 else "the evaluation text"


def _front_matter(reference: str, licence: Licence, tag: str) -> str:
    lines = ["---", f"license: {licence.identifier}"]
    for key, value in (("license_name", licence.name), ("license_link", licence.link)):
        if value and (_PLAIN.fullmatch(value) or (key == "license_link" and value.startswith("https://"))):
            lines.append(f"{key}: {value}")
    hub, cached = hub_model(reference), _CACHED.fullmatch(reference)
    base = hub[0] if hub else cached and cached[1]
    if base:  # a name that only this machine knows is none for a hub
        lines += [f"base_model: {base}"]
    tags = ["rankalloc", "compressed", "low-rank", tag]
    return "\n".join(
        [
            *lines,
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            *(f"- {t}" for t in tags),
            "---",
        ]
    )


def _licence_text(licence: Licence) -> str:
    if licence.file is None:
        return "Unknown, see the base model: it applies to this one, which is made of its weights."
    name = licence.identifier if licence.name is None else f"{licence.identifier} ({licence.name})"
    return f"`{name}`, by the base model's `{licence.file}`: it applies to this model, which is made of its weights."


def _proof(report: Report) -> str:
    certificate = report.certificate
    if certificate is not None:
        return f"{certificate.status}, gap {certificate.gap:.1e}, by {certificate.solver}"
    if report.allocation == UNIFORM:
        return "none: uniform ranks"
    return "none of its own: the ranks were refined by measurement, or transferred from another model's plan"


def _healing(report: Report) -> str:
    heal, healed = report.heal, report.healed
    if heal is None or healed is None:
        return ""
    return (
        f"; both of the closed form. Its weights were then healed: {heal.steps} steps of distillation\n"
        f"from the dense model on calibration text in {heal.seconds:.0f} s, ranks kept, after which the measured loss is"
        f" {healed.measured_loss_nats:.4f} nats/token"
    )
