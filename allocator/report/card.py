"""The model card of a compact checkpoint."""

from __future__ import annotations

from typing import Any


def model_card(report: dict[str, Any]) -> str:
    """Markdown for the checkpoint's README.md: where it comes from, what it costs, how it loads."""
    plan, dense, uniform, heal = report["plan"], report["dense"], report["uniform"], report["heal"]
    shown = {"uniform ranks, same budgets": uniform, "**this model**": plan}
    if heal is not None:
        shown = {
            "uniform ranks, same budgets": uniform,
            "before healing": plan,
            "**this model**": report["healed"],
        }
    budgets = "\n".join(
        f"| `{b['text']}` | {b['limit']:,} {b['unit']} | {b['used']:,} {b['unit']} |"
        for b in report["budgets"]
    )

    def line(name: str, row: dict[str, Any], rise: str) -> str:
        return (
            f"| {name} | {row['params']:,} | {row['kv_bytes_per_token']:,} | {row['flops_per_token']:,} "
            f"| {rise} | {row['evaluation_perplexity']:.3f} |"
        )

    rows = "\n".join(line(name, row, f"{row['evaluation_rise_nats']:.4f}") for name, row in shown.items())
    return f"""---
library_name: transformers
tags: [rankalloc, compressed]
---
# {report["model"].split(":", 1)[-1]}, compressed by mixed ranks

Compressed from `{report["model"]}` (weights sha256 `{report["weights_sha256"][:16]}`) by rankalloc: solver
`{report["solver"]}` (A3, arXiv 2505.12942), allocation `{report["allocation"]}`, plan `{plan["digest"][:16]}`
(`plan.json` beside this file). The licence of the source model applies.

| budget | limit | used |
|---|---|---|
{budgets}

| | parameters | KV bytes/token | FLOPs/token | rise on evaluation text, nats/token | perplexity |
|---|---|---|---|---|---|
{line("dense", dense, "0")}
{rows}

Predicted loss {plan["predicted_loss_nats"]:.4f}, measured {plan["measured_loss_nats"]:.4f} nats/token (KL to the dense model on
calibration text that the solver did not see){_healing(report)}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

# The folder carries its own model class; with rankalloc installed, `import solvers` makes the flag unnecessary.
model = AutoModelForCausalLM.from_pretrained("compact", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("compact", trust_remote_code=True)
```
"""


def _healing(report: dict[str, Any]) -> str:
    heal = report["heal"]
    if heal is None:
        return ""
    return (
        f"; both of the closed form. Its weights were then healed: {heal['steps']} steps of distillation\n"
        f"from the dense model on calibration text in {heal['seconds']:.0f} s, ranks kept, after which the measured loss is"
        f" {report['healed']['measured_loss_nats']:.4f} nats/token"
    )
