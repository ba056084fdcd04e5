"""Measure dense, uniform, planned and healed models: KL on the measure shards, likelihood on the evaluation text, and what they
write behind a few of its beginnings.

This is the only stage that reads the evaluation text's tokens, and it runs when ranks and weights are final.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from allocator.base.settings import Settings
from allocator.methods.registry import METHODS, PAPER
from allocator.plan.baselines import UNIFORM_RATIO
from allocator.plan.documents.plan import Plan
from allocator.plan.effort import evaluated, evaluation_tokens
from allocator.profiling.work import WORK
from allocator.report.rows import DENSE, HEALED, PLAN, UNIFORM_PAPER
from allocator.stages import worker_cache
from allocator.stages.evaluation_work import EvaluationWork
from allocator.stages.exports import COMPACT
from allocator.stages.facts import facts_of, geometry_of, job_identity, job_plan, plan_digest_of
from allocator.stages.inputs import calibration_text, evaluation_text, open_compact, open_source
from allocator.stages.pipeline import CLOSED_FORM, ItemSpec, JobView, StageContext
from allocator.stages.request import EVERY_BASELINE, NO_BASELINE, ONE_BASELINE
from allocator.stages.solving import compressed_layers, solution_folder
from allocator.stages.work_progress import WorkProgress
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.model.surgery import OpenModel
    from solvers.weights import LayerWeights

_READ = (DENSE, PLAN, HEALED)
"""Models that are read from a folder; the others are solved here."""


class EvaluateStage:
    """One item per model: ``dense``, the uniform baselines, ``plan`` and ``healed`` (read back from the written checkpoints).

    ``plan`` is always the closed form, healed afterwards or not.
    """

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        plan = store.plans.get(job.team, plan_digest_of(job))
        selected = {EVERY_BASELINE: set(plan.baseline), ONE_BASELINE: {UNIFORM_RATIO}, NO_BASELINE: set()}
        baselines = [
            name for name in plan.baseline if name in selected[job.request.baselines or EVERY_BASELINE]
        ]
        names = [DENSE, *baselines, PLAN]
        if job.results["heal"]:
            names.append(HEALED)
        if METHODS[plan.solver].beside_paper and UNIFORM_RATIO in baselines:
            names.append(UNIFORM_PAPER)
        return [ItemSpec(name, {"expected": _work(job, plan, name).total, "unit": WORK}) for name in names]

    def run(self, context: StageContext) -> dict[str, Any]:
        from allocator.profiling import continuations
        from allocator.profiling.divergence import compare_with_dense
        from allocator.profiling.likelihood import nll_per_window
        from allocator.profiling.work import body_windows

        evaluation = evaluation_text(context)
        measure = calibration_text(context).measure(job_identity(context.job).effort.judged_windows)
        plan = job_plan(context)
        windows = evaluated(evaluation.windows)[: _text_windows(context.job, plan)]
        dense = open_source(context, measuring=True)
        parts = measure.split(body_windows(measure.shape[1]))
        work = _work(context.job, plan, context.item_key)
        progress, passes = WorkProgress(context, work.total), len(dense.source) * len(parts)
        result: dict[str, Any] = {
            "name": context.item_key,
            "measured_loss_nats": 0.0,
            "measured_stderr_nats": 0.0,
        }
        with ExitStack() as stack:
            model, cut = dense, None
            if context.item_key not in _READ:
                cut = self._baseline(context, plan, dense, progress.share(work.solving))
            expected = (
                []
                if context.item_key == DENSE
                else worker_cache.references().last(dense, parts, progress.steps(work.states, passes))
            )
            if cut is not None:
                stack.enter_context(dense.exchanged(cut))
            if context.item_key in (PLAN, HEALED):  # what is measured is what was written
                for layer in range(len(dense.source)):  # of the dense one only the head is needed any more
                    dense.release(layer)
                model = self._written_model(context, plan)
            if expected:
                comparison = compare_with_dense(
                    dense,
                    expected,
                    model,
                    parts,
                    progress.steps(work.heads, len(parts)),
                    progress.steps(work.body, passes),
                )
                result |= {
                    "measured_loss_nats": comparison.kl_nats,
                    "measured_stderr_nats": comparison.kl_stderr_nats,
                    "top1_agreement": comparison.top1_agreement,
                }
            vocab, prefix = dense.config.vocab_size, len(evaluation.prefix)
            batches = len(windows.split(body_windows(windows.shape[1])))
            nats = nll_per_window(
                model,
                windows,
                vocab,
                prefix=prefix,
                tick=progress.steps(work.text_head, batches),
                on_pass=progress.steps(work.text_body, len(dense.source) * batches),
            )
            if context.item_key in _READ:
                prompts = continuations.prompts_of(windows, prefix=prefix)
                room = geometry_of(context.job).max_positions - prompts.shape[1]
                new = continuations.continued(
                    model, prompts, min(continuations.NEW_TOKENS, room), context.heartbeat
                )
                continuation_ids = [continuations.until_end(ids, model.config) for ids in new.tolist()]
                result |= {"prompt_ids": prompts.tolist(), "continuation_ids": continuation_ids}
        return result | {"evaluation_nll_nats": statistics.fmean(nats), "evaluation_window_nats": nats}

    def _written_model(self, context: StageContext, plan: Plan) -> OpenModel:
        from solvers.model.rounding import held

        healed = bool(context.job.results["heal"])
        name = CLOSED_FORM if healed and context.item_key == PLAN else COMPACT.name
        model = open_compact(context, name)
        for index, bits in enumerate(plan.chosen.widths()):
            if bits:  # as torchao will hold it
                model.put(index, held(model.source[index], bits))
        return model

    def _baseline(
        self, context: StageContext, plan: Plan, opened: OpenModel, on_layer: Callable[[int, int], None]
    ) -> Sequence[LayerWeights]:
        from solvers.model.rounding import held
        from solvers.weights import OnDemand

        paper, place = context.item_key == UNIFORM_PAPER, context.item_key
        ranks = plan.baseline[UNIFORM_RATIO if paper else context.item_key].chosen
        solver, widths = PAPER.name if paper else plan.solver, ranks.widths()
        layers, _ = compressed_layers(context, opened, ranks, solver=solver, place=place, on_layer=on_layer)
        context.let_go(solution_folder(context, ranks, solver, place))

        def computing(layer: int) -> LayerWeights:
            bits = widths[layer]
            return held(layers[layer], bits) if bits else layers[layer]

        return OnDemand(len(widths), computing)


def _text_windows(job: JobView, plan: Plan) -> int:
    """Windows of the evaluation text that the job's final figures are taken over, the same for all its models; where the text
    has them.
    """
    return max(1, evaluation_tokens(plan.predicted.loss_nats) // facts_of(job)["evaluation"]["window_tokens"])


def _work(job: JobView, plan: Plan, name: str) -> EvaluationWork:
    facts = facts_of(job)
    calibration, evaluation = facts["calibration"], facts["evaluation"]
    text = min(_text_windows(job, plan), evaluation["windows"]) * evaluation["window_tokens"]
    return EvaluationWork.of(
        geometry_of(job),
        judged=min(job_identity(job).effort.judged_windows, calibration["measure_windows"]) * (name != DENSE),
        text=text / facts["window_tokens"],
        fit=0 if name in _READ else calibration["fit_windows"],
        solver=PAPER.name if name == UNIFORM_PAPER else plan.solver,
    )
