"""Measure dense, uniform, planned and healed models: KL on the measure shards, likelihood on the evaluation text.

This is the only stage that reads the evaluation text's tokens, and it runs when ranks and weights are final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allocator.jobs.pipeline import CLOSED_FORM, ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import (
    calibration_text,
    evaluation_text,
    job_identity,
    job_plan,
    open_source,
    plan_digest_of,
    written_open,
)
from allocator.jobs.stages.solving import compressed_layers
from allocator.precision import bits_of
from allocator.profiling.effort import evaluated
from allocator.settings import Settings
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.surgery import OpenModel


class Evaluate:
    """One item per model: ``dense``, the uniform baselines, ``plan`` and ``healed`` (read back from the written checkpoints).

    ``plan`` is always the closed form, healed afterwards or not.
    """

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        plan = store.plans.get(job.team, plan_digest_of(job))
        names = ["dense", *plan["baseline"], "plan"]
        if job.results["heal"]:
            names.append("healed")
        if plan["solver"] != "a3" and "uniform" in plan["baseline"]:
            names.append("uniform_a3")
        return [ItemSpec(name) for name in names]

    def run(self, context: StageContext) -> dict[str, Any]:
        from allocator.profiling.measure import batches, kl_to_dense, nll_nats

        evaluation = evaluation_text(context)
        measure = calibration_text(context).measure(job_identity(context.job).effort.most_windows)
        windows = evaluated(evaluation.windows)
        dense = open_source(context)
        vocab = dense.config.vocab_size
        total = len(list(batches(windows, vocab))) + len(list(batches(measure, vocab)))
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            context.progress(done, total, "batches")

        result: dict[str, Any] = {
            "name": context.item_key,
            "measured_loss_nats": 0.0,
            "measured_stderr_nats": 0.0,
        }
        other = dense if context.item_key == "dense" else self._model(context)
        if other is not dense:
            loss, spread = kl_to_dense(dense, other, measure, vocab, tick)
            result |= {"measured_loss_nats": loss, "measured_stderr_nats": spread}
        result["evaluation_nll_nats"] = nll_nats(
            other, windows, vocab, prefix=len(evaluation.prefix), tick=tick
        )
        return result

    def _model(self, context: StageContext) -> OpenModel:
        from solvers.rounding import held

        healed, plan = bool(context.job.results["heal"]), job_plan(context)
        if context.item_key in ("plan", "healed"):  # what is measured is what was written
            written = written_open(
                context, CLOSED_FORM if healed and context.item_key == "plan" else "compact"
            )
            for index, row in enumerate(plan["ranks"]):
                if bits := bits_of(row):  # as torchao will hold it
                    written.put(index, held(written.source[index], bits))
            return written
        paper = context.item_key == "uniform_a3"
        ranks = plan["baseline"]["uniform" if paper else context.item_key]["ranks"]
        opened = open_source(context)
        layers, _ = compressed_layers(context, opened, ranks, solver="a3" if paper else plan["solver"])
        for index, weights in enumerate(layers):
            bits = bits_of(ranks[index])
            opened.put(index, held(weights, bits) if bits else weights)
        return opened
