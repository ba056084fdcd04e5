"""Steps after `a3+`: weight quantization, LoRA and healing. ``python -m benchmarks.composition`` fills the tables of
docs/how-to/quantize-and-finetune.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from allocator.profiling.likelihood import nll_nats
from benchmarks.allocation import EXAMPLES, ROOT, Case, cases
from solvers.healing.distance import Halves
from solvers.healing.heal import heal
from solvers.quantization import can_pack, linear_layers, stored_bytes, weight_only
from tests.support.cuts import Cut, cut
from tests.support.pages import fill

BLOCK_PARAMS = "0.8"
STEPS = 60
BATCH = 8
LORA_RATE = 1e-3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVALUATION_WINDOWS = 64


def cut_to(case: Case, block_params: str, **options: Any) -> Cut:
    return cut(case.folder, case.calibration, case.evaluation, block_params=block_params, **options)


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def nll(checkpoint: Cut, model: Any) -> float:
    """Nats/token on evaluation text."""
    text = checkpoint.evaluation
    windows = text.windows[:EVALUATION_WINDOWS]
    return nll_nats(model, windows, checkpoint.geometry.vocab, prefix=len(text.prefix), tick=lambda: None)


def split(checkpoint: Cut) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit windows for training, and every eighth of them for choosing the healed weights."""
    windows = checkpoint.calibration.fit(len(checkpoint.calibration.windows))
    validation = torch.arange(len(windows)) % 8 == 7
    return windows[~validation], windows[validation]


def through_storage(model: Any, dtype: torch.dtype) -> Any:
    """The weights as a checkpoint of the source's type would give them back."""
    return model.to(dtype).to(torch.float32)


def after_lora(checkpoint: Cut, folder: Path) -> tuple[Any, float]:
    """LoRA of rank 8 on every block projection, next-token loss on fit windows, merged; and its seconds."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(load(folder), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LORA_RATE)
    windows, _ = split(checkpoint)
    started = time.perf_counter()
    for _ in range(STEPS):
        batch = windows[torch.randint(len(windows), (BATCH,))]
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    spent = time.perf_counter() - started
    return through_storage(model.eval().merge_and_unload(), checkpoint.dtype), spent


def after_healing(checkpoint: Cut, folder: Path) -> tuple[Any, dict[str, Any]]:
    model = load(folder)
    windows, validation = split(checkpoint)
    record = heal(
        Halves(checkpoint.dense), model, windows, steps=STEPS, batch_windows=BATCH, validation=validation
    )
    return through_storage(model, checkpoint.dtype), asdict(record)


def measure(case: Case, work: Path) -> dict[str, Any]:
    """All figures of one model; rises over dense in nats/token."""
    checkpoint, uncut = cut_to(case, BLOCK_PARAMS), cut_to(case, "1", fit_windows=BATCH)
    folder, dense = checkpoint.write(work / f"{case.name}-cut"), uncut.write(work / f"{case.name}-dense")
    zero = nll(checkpoint, checkpoint.dense)
    row: dict[str, Any] = {"model": case.name, "dense_nll": zero, "compress_s": checkpoint.seconds}
    for name, source in (("dense", dense), ("a3", folder)):
        for bits in (None, 8, 4):
            options = {} if bits is None else {"quantization_config": weight_only(source, bits=bits)}
            row[f"{name}_{bits or 'plain'}"] = nll(checkpoint, load(source, **options)) - zero
    model, row["lora_s"] = after_lora(checkpoint, folder)
    row["lora"] = nll(checkpoint, model) - zero
    model, row["heal_record"] = after_healing(checkpoint, folder)
    row["heal"] = nll(checkpoint, model) - zero
    model.save_pretrained(work / f"{case.name}-healed")
    quantized = weight_only(work / f"{case.name}-healed", bits=4)
    row["heal_4"] = nll(checkpoint, load(work / f"{case.name}-healed", quantization_config=quantized)) - zero
    return row


def measure_packing(case: Case, work: Path) -> list[dict[str, Any]]:
    """Four bits packed on the CPU, at ranks as they come and at ranks in packing steps."""
    rows = []
    for packable in (False, True):
        checkpoint = cut_to(case, BLOCK_PARAMS, packable=packable)
        folder = checkpoint.write(work / f"{case.name}-packable-{packable}")
        model = load(folder, quantization_config=weight_only(folder, bits=4, packed=True))
        shapes, zero, plain = linear_layers(folder), nll(checkpoint, checkpoint.dense), load(folder)
        rest = sum(
            p.numel() * p.element_size() for n, p in plain.named_parameters() if "proj.weight" not in n
        )
        rows.append(
            {
                "model": case.name,
                "ranks": [checkpoint.ranks.qk[0], checkpoint.ranks.ov[0], checkpoint.ranks.mlp[0]],
                "packed": sum(can_pack(*shape) for shape in shapes.values()),
                "layers": len(shapes),
                "bits": 8
                * (stored_bytes(model) - _buffers(plain) - rest)
                / sum(a * b for a, b in shapes.values()),
                "plain": nll(checkpoint, plain) - zero,
                "rise": nll(checkpoint, model) - zero,
            }
        )
    return rows


def _buffers(model: Any) -> int:
    return sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())


def quantization_table(rows: list[dict[str, Any]]) -> str:
    columns = ("a3_plain", "dense_8", "a3_8", "dense_4", "a3_4")
    lines = ["| model | a3+ | int8 | a3+ and int8 | int4 | a3+ and int4 |", "|---|---|---|---|---|---|"]
    return "\n".join(
        lines + [f"| {row['model']} | " + " | ".join(f"{row[c]:.4f}" for c in columns) + " |" for row in rows]
    )


def recovery_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | a3+ | + LoRA | time / compress | + healing | kept step | time / compress | + healing + int4 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        record, unit = row["heal_record"], row["compress_s"]
        healing = f"{row['heal']:.4f} | {record['kept_step']} | {record['seconds'] / unit:.0f} | {row['heal_4']:.4f}"
        lora = f"{row['lora']:.4f} | {row['lora_s'] / unit:.0f}"
        lines.append(f"| {row['model']} | {row['a3_plain']:.4f} | {lora} | {healing} |")
    return "\n".join(lines)


def packing_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| model | QK, OV, MLP rank | layers packed | bits per weight | a3+ | a3+ and int4 packed |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        ranks = ", ".join(map(str, row["ranks"]))
        share = f"{row['packed']} of {row['layers']}"
        losses = f"{row['plain']:.4f} | {row['rise']:.4f}"
        lines.append(f"| {row['model']} | {ranks} | {share} | {row['bits']:.1f} | {losses} |")
    return "\n".join(lines)


def publish(rows: list[dict[str, Any]], packing: list[dict[str, Any]]) -> dict[str, str]:
    """Write raw figures and the page's tables."""
    tables = {
        "composition": quantization_table(rows),
        "recovery": recovery_table(rows),
        "packing": packing_table(packing),
    }
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    raw = json.dumps({"composition": rows, "packing": packing}, indent=1)
    (results / "composition.json").write_text(raw, encoding="utf-8")
    fill(ROOT / "docs" / "how-to" / "quantize-and-finetune.md", tables)
    return tables


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    packing: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for case in cases(work):
            rows.append(measure(case, work))
            sys.stderr.write(f"{json.dumps(rows[-1])}\n")
            if case.name in EXAMPLES:
                packing += measure_packing(case, work)
            tables = publish(rows, packing)  # after each model: what is measured is not lost
    sys.stdout.write("\n\n".join(tables.values()) + "\n")


if __name__ == "__main__":
    main()
