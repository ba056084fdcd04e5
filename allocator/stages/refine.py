"""Refine the surrogate's plan by losses measured around it (`allocator.plan.refinement`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from allocator.base.settings import Settings
from allocator.methods.registry import METHODS
from allocator.plan.ask.constraints import Place
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.precision import LATENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import question_of, refined_plan
from allocator.plan.refinement import Record, price, refine
from allocator.profiling.work import WORK
from allocator.stages.evaluation_work import RefinementWork
from allocator.stages.facts import evaluations_of, facts_of, geometry_of, job_identity, refines
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.pipeline import ItemSpec, JobView, MeasuringContext, StageContext
from allocator.stages.solving import compressed_layers, layer_solution, solution_folder
from allocator.stages.work_progress import WorkProgress
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.a3.compress import LayerSolution
    from solvers.weights import LayerWeights


class RefineStage:
    """One item; stores the refined plan if it is better as it will be delivered, with error feedback."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("ranks", {"expected": _work(job).total, "unit": WORK})] if refines(job) else []

    def run(self, context: StageContext) -> dict[str, Any]:
        job, store = context.job, context.store
        plan = store.plans.get(job.team, job.result("allocate")["digest"])
        profile = store.profiles.get(job.team, job.result("assemble")["profile_key"])
        work = _work(job)
        progress = WorkProgress(context, work.total)
        start = plan.chosen
        measurer = PlanMeasurer(context, lambda evaluations: progress.add(evaluations * work.evaluation))

        def on_step(record: Record) -> None:
            progress.reach(record.evaluations * work.evaluation)

        question = question_of(plan, profile)
        ranks, record = refine(question, start, measurer, evaluations=work.evaluations, on_step=on_step)
        document = record.document()
        if ranks != start:
            tried, delivered = (start, ranks), []
            for number, tried_ranks in enumerate(tried):
                progress.reach(work.search + number * work.delivered)
                solved = progress.share(work.delivered - work.evaluation)
                delivered.append(measurer.delivered(context, tried_ranks, plan.solver, solved))
            progress.reach(work.total)
            document["delivered_nats"] = {"start": delivered[0], "refined": delivered[1]}
            if delivered[1] >= delivered[0]:
                ranks, document["stopped"] = start, "no better as delivered, with error feedback"
            for tried_ranks in tried:
                if tried_ranks != ranks:  # the layers of what is chosen wait for ``apply``
                    context.let_go(solution_folder(context, tried_ranks, plan.solver))
        if ranks != start:
            plan = refined_plan(plan, profile, ranks, document)
            store.plans.put(job.team, plan, created_by=job.created_by)
            context.link(plan_digest=plan.digest)
        context.event(
            "plan.refined" if ranks != start else "plan.kept", _sentence(record, ranks != start), document
        )
        return {"digest": plan.digest, "refined": ranks != start, "record": document}


def _work(job: JobView) -> RefinementWork:
    calibration = facts_of(job)["calibration"]
    return RefinementWork.of(
        geometry_of(job),
        evaluations=evaluations_of(job),
        judged=min(job_identity(job).effort.most_windows, calibration["measure_windows"]),
        fit=calibration["fit_windows"],
        solver=job.request.method,
    )


def _sentence(record: Record, better: bool) -> str:
    share = record.document()["additivity_error"]
    base = f"measured {record.start_nats:.4f} nats/token where {record.predicted_nats:.4f} was predicted ({share:+.0%})"
    if record.additive:
        return f"losses add up: {base}"
    outcome = f"refined to {record.final_nats:.4f}" if better else "no better ranks found"
    return f"{base}; {outcome} after {record.evaluations:.0f} evaluations"


class PlanMeasurer:
    """Losses of one-shot compressed models on the measure windows; what the team has measured is not measured again.

    Of every layer the weights it had last stay at hand, in the checkpoint's type, and of one layer the solution.

    Args:
        on_changes: called with the evaluations that the changes of each layer were.
    """

    def __init__(
        self, context: MeasuringContext, on_changes: Callable[[float], None] = lambda evaluations: None
    ) -> None:
        import torch

        self._context, self._on_changes = context, on_changes
        self._opened = open_source(context)
        self._text = calibration_text(context)
        self._windows = self._text.measure(job_identity(context.job).effort.most_windows)
        self._dtype = getattr(torch, facts_of(context.job)["storage_dtype"])
        self._solutions: dict[int, LayerSolution] = {}
        self._layers: dict[int, tuple[tuple[tuple[str, int], ...], LayerWeights]] = {}

    def plan(self, ranks: Ranks) -> float:
        """KL of the whole model at these ranks."""
        key = self._key(ranks)
        if (stored := self._stored_loss(key)) is not None:
            return stored
        return self._store({key: self._model_loss(lambda layer: self._layer(layer, ranks))})[key]

    def changes(self, ranks: Ranks, trials: Mapping[Place, Sequence[int]]) -> dict[tuple[Place, int], float]:
        """Layer by layer, restarted from the cut stream."""
        from allocator.profiling.measure import Variant, measure_layer

        base, changes, layers = self.plan(ranks), {}, len(self._opened.source)
        for layer in sorted({place[0] for place in trials}):
            keys = {
                (c, rank): self._key(_changed(ranks, layer, c, rank))
                for (at, c), new_ranks in trials.items()
                if at == layer
                for rank in new_ranks
            }
            losses = {key: stored for key in keys.values() if (stored := self._stored_loss(key)) is not None}
            if cuts := [cut for cut, key in keys.items() if key not in losses]:
                variants = [Variant(c, rank, self._layer(layer, ranks, **{c: rank})) for c, rank in cuts]
                (values,) = measure_layer(
                    self._opened,
                    layer,
                    {0: (self._windows, variants)},
                    self._context.heartbeat,
                    surroundings=lambda index: self._layer(index, ranks),
                ).values()
                new = {keys[cut]: statistics.fmean(kls) for cut, kls in zip(cuts, values, strict=True)}
                losses |= self._store(new)
            for (component, rank), key in keys.items():
                changes[(layer, component), rank] = losses[key] - base
            self._on_changes(price(layer, len(keys), layers))
        return changes

    def delivered(
        self, context: StageContext, ranks: Ranks, solver: str, on_layer: Callable[[int, int], None]
    ) -> float:
        """KL of the model as ``apply`` will write it; its layers stay in the job's folder, and each is told of."""
        key = self._key(ranks, solver)
        if (stored := self._stored_loss(key)) is not None:
            return stored
        layers, _ = compressed_layers(context, self._opened, ranks, solver=solver, on_layer=on_layer)
        return self._store({key: self._model_loss(lambda layer: layers[layer])})[key]

    def _key(self, ranks: Ranks, delivered_by: str | None = None) -> str:
        version = None if delivered_by is None else METHODS[delivered_by].version
        return job_identity(self._context.job).plan_key(ranks.layers(), len(self._windows), version)

    def _stored_loss(self, key: str) -> float | None:
        unit = self._context.store.units.get_many(self._context.job.team, [key]).get(key)
        return None if unit is None else float(unit["kl_nats"])

    def _store(self, losses: dict[str, float]) -> dict[str, float]:
        units = {key: {"kl_nats": loss} for key, loss in losses.items()}
        self._context.store.units.put_many(self._context.job.team, units)
        return losses

    def _model_loss(self, weights: Callable[[int], LayerWeights]) -> float:
        from allocator.profiling.measure import Variant, measure_layer

        # As a variant of the last layer among all the others: the same passes as those of ``changes``.
        last = len(self._opened.source) - 1
        ((values,),) = measure_layer(
            self._opened,
            last,
            {0: (self._windows, [Variant("plan", 0, weights(last))])},
            self._context.heartbeat,
            surroundings=weights,
        ).values()
        return statistics.fmean(values)

    def _layer(self, layer: int, ranks: Ranks, **changed: int) -> LayerWeights:
        at: dict[str, int] = {c: ranks.of(c)[layer] for c in COMPONENTS} | changed
        for form in ranks.latents[layer] if ranks.latents else ():
            at[form] = at.pop(LATENTS[form])
        place = tuple(at.items())
        if layer in self._layers and self._layers[layer][0] == place:
            return self._layers[layer][1]
        weights = self._solution(layer).compressed(**at).to(dtype=self._dtype, device="cpu")
        if not changed:
            self._layers[layer] = place, weights
        return weights

    def _solution(self, layer: int) -> LayerSolution:
        if layer not in self._solutions:
            self._solutions.clear()
            self._solutions[layer] = layer_solution(self._context, self._opened, layer)
        return self._solutions[layer]


def _changed(ranks: Ranks, layer: int, component: Component, rank: int) -> Ranks:
    column = list(ranks.of(component))
    column[layer] = rank
    changed: dict[str, Any] = {component: tuple(column)}
    return replace(ranks, **changed)
