"""Measure dense, uniform, planned and healed models: KL on the measure shards, likelihood on the evaluation text, and what they
write behind a few of its beginnings.

This is the only stage that reads the evaluation text's tokens, and it runs when ranks and weights are final.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from allocator.base.settings import Settings
from allocator.methods.registry import METHODS, PAPER
from allocator.plan.effort import evaluated, evaluation_tokens
from allocator.report.document import UNIFORM_PAPER
from allocator.stages.inputs import (
    calibration_text,
    evaluation_text,
    geometry_of,
    job_identity,
    job_plan,
    open_source,
    plan_digest_of,
    written_open,
)
from allocator.stages.pipeline import CLOSED_FORM, ItemSpec, JobView, StageContext
from allocator.stages.solving import compressed_layers, solution_folder
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.surgery import OpenModel
    from solvers.weights import LayerWeights


class Evaluate:
    """One item per model: ``dense``, the uniform baselines, ``plan`` and ``healed`` (read back from the written checkpoints).

    ``plan`` is always the closed form, healed afterwards or not.
    """

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        plan = store.plans.get(job.team, plan_digest_of(job))
        wanted = {"all": set(plan.baseline), "uniform": {"uniform"}, "none": set()}
        beside = [name for name in plan.baseline if name in wanted[job.request.baselines or "all"]]
        names = ["dense", *beside, "plan"]
        if job.results["heal"]:
            names.append("healed")
        if METHODS[plan.solver].beside_paper and "uniform" in beside:
            names.append(UNIFORM_PAPER)
        return [ItemSpec(name) for name in names]

    def run(self, context: StageContext) -> dict[str, Any]:
        from allocator.profiling import continuations
        from allocator.profiling.cost import body_windows
        from allocator.profiling.measure import beside_dense, nll_per_window

        evaluation = evaluation_text(context)
        measure = calibration_text(context).measure(job_identity(context.job).effort.judged_windows)
        windows = evaluated(evaluation.windows)[: max(1, tokens_of(context) // evaluation.windows.shape[1])]
        dense = open_source(context)
        parts = measure.split(body_windows(measure.shape[1]))
        done, total = 0, len(windows.split(body_windows(windows.shape[1]))) + len(parts)

        def tick() -> None:
            nonlocal done
            done += 1
            context.progress(done, total, "batches")

        result: dict[str, Any] = {
            "name": context.item_key,
            "measured_loss_nats": 0.0,
            "measured_stderr_nats": 0.0,
        }
        with ExitStack() as stack:
            other = dense
            expected = [] if context.item_key == "dense" else list(dense.states(parts, context.heartbeat))
            if context.item_key in ("plan", "healed"):  # what is measured is what was written
                for layer in range(len(dense.source)):  # of the dense one only the head is needed any more
                    dense.release(layer)
                other = self._written(context)
            if context.item_key not in ("dense", "plan", "healed"):
                stack.enter_context(dense.exchanged(self._baseline(context, dense)))
            if expected:
                beside = beside_dense(dense, expected, other, parts, tick, context.heartbeat)
                result |= {
                    "measured_loss_nats": beside.kl_nats,
                    "measured_stderr_nats": beside.kl_stderr_nats,
                    "top1_agreement": beside.top1_agreement,
                }
            vocab, prefix = dense.config.vocab_size, len(evaluation.prefix)
            nats = nll_per_window(other, windows, vocab, prefix=prefix, tick=tick, on_pass=context.heartbeat)
            if context.item_key in ("dense", "plan", "healed"):
                prompts = continuations.prompts_of(windows, prefix=prefix)
                room = geometry_of(context.job).max_positions - prompts.shape[1]
                new = continuations.continued(
                    other, prompts, min(continuations.NEW_TOKENS, room), context.heartbeat
                )
                written = [continuations.until_end(ids, other.config) for ids in new.tolist()]
                result |= {"prompt_ids": prompts.tolist(), "continuation_ids": written}
        return result | {"evaluation_nll_nats": statistics.fmean(nats), "evaluation_window_nats": nats}

    def _written(self, context: StageContext) -> OpenModel:
        from solvers.rounding import held

        healed, plan = bool(context.job.results["heal"]), job_plan(context)
        name = CLOSED_FORM if healed and context.item_key == "plan" else "compact"
        written = written_open(context, name)
        for index, bits in enumerate(plan.chosen.widths()):
            if bits:  # as torchao will hold it
                written.put(index, held(written.source[index], bits))
        return written

    def _baseline(self, context: StageContext, opened: OpenModel) -> Sequence[LayerWeights]:
        from solvers.rounding import held
        from solvers.weights import OnDemand

        plan, paper, place = job_plan(context), context.item_key == UNIFORM_PAPER, context.item_key
        ranks = plan.baseline["uniform" if paper else context.item_key].chosen
        solver, widths = PAPER.name if paper else plan.solver, ranks.widths()
        layers, _ = compressed_layers(context, opened, ranks, solver=solver, place=place)
        context.let_go(solution_folder(context, ranks, solver, place))

        def computing(layer: int) -> LayerWeights:
            bits = widths[layer]
            return held(layers[layer], bits) if bits else layers[layer]

        return OnDemand(len(widths), computing)


def tokens_of(context: StageContext) -> int:
    """Tokens of the evaluation text that the job's final figures are taken over: the same for all its models."""
    store, job = context.store, context.job
    plan = store.plans.get(job.team, plan_digest_of(job))
    return evaluation_tokens(plan.predicted.loss_nats)
