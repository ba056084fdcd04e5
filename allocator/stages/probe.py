"""A few losses of a fine-tune at ranks that are stored of the model it comes from, and the verdict on reusing those."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.transfer import REUSE, Probe, choose_probes, judge, transferred_plan
from allocator.profiling.needs import Cut
from allocator.stages.facts import facts_of
from allocator.stages.layer_measurer import LayerMeasurer
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile_units import layers_of
from allocator.stages.reuse import check_comparable, checked_profile
from allocator.store import Store


class ProbeStage:
    """One item; what it has measured of a layer is kept, should it be interrupted."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("probes")]

    def run(self, context: StageContext) -> dict[str, Any]:
        job, store, facts = context.job, context.store, facts_of(context.job)
        profile, plan = checked_profile(store, job.team, job.request)
        check_comparable(profile, facts)
        probes = choose_probes(profile, plan)
        if not probes:
            allowed = "a profile with measured points, or profile this model"
            clause = f"{profile.key[:12]} has no measured loss above noise to compare with; use"
            raise InvalidInput.of("profile", profile.key, allowed, clause)
        same_weights = facts["weights_sha256"] == profile.model.weights_sha256
        losses = [probe.stored_nats for probe in probes] if same_weights else self._measure(context, probes)
        passes = 0 if same_weights else len(probes)
        verdict = {
            "schema": "rankalloc.transfer/1",
            "model": {name: facts[name] for name in ("reference", "weights_sha256")},
            "profile": profile.key,
            "profiled_model": profile.model.reference,
            "measure_windows": facts["first_windows"],
            **judge(profile, probes, losses, plan, same_weights=same_weights),
        }
        if plan is not None and verdict["verdict"] == REUSE:
            verdict["plan"]["transferred"] = self._store(context, profile, probes, losses, plan)
        file = context.temporary_dir() / "transfer.json"
        file.write_text(json.dumps(verdict, indent=2), encoding="utf-8")
        context.publish_artifact(file, "transfer.json")
        context.event(
            "transfer.verdict",
            f"{verdict['verdict']}: {verdict['why']}",
            {"verdict": verdict["verdict"], **verdict["curves"]},
        )
        return {"verdict": verdict["verdict"], "forward_passes": passes}

    @staticmethod
    def _store(
        context: StageContext,
        profile: Profile,
        probes: list[Probe],
        losses: list[float],
        plan: Plan,
    ) -> str:
        """The digest of the plan for this model, which ``compress`` takes from here."""
        team, facts = context.job.team, facts_of(context.job)
        model = {name: facts[name] for name in ("reference", "weights_sha256")}
        new = transferred_plan(profile, probes, losses, plan, **model)
        context.store.plans.put(team, new, created_by=team)
        context.link(plan_digest=new.digest)
        context.event("plan.transferred", f"plan {new.digest[:12]} is for this model", {"digest": new.digest})
        return new.digest

    def _measure(self, context: StageContext, probes: list[Probe]) -> list[float]:
        """The fine-tune's losses on the first windows, taken from the store where they are known, else kept there."""
        layers, done = [replace(layer, fully_measured=True) for layer in layers_of(context.job)], 0

        def tick() -> None:
            context.progress(done, len(probes), "probes")

        losses: dict[Probe, float] = {}
        for index in sorted({probe.layer for probe in probes}):
            layer = layers[index]
            own_probes = [probe for probe in probes if probe.layer == index]
            cuts: list[Cut] = [(probe.component, probe.rank) for probe in own_probes]
            blocks = range(layer.first_blocks)
            keys = [layer.key(cut, block) for cut in cuts for block in blocks]
            units = context.store.units.get_many(context.job.team, keys)
            missing_cuts = {
                block: missing
                for block in blocks
                if (missing := [cut for cut in cuts if layer.key(cut, block) not in units])
            }
            if missing_cuts:
                new_units = LayerMeasurer(context, layer, tick).losses(missing_cuts)
                context.store.units.put_many(context.job.team, new_units)
                units |= new_units
            for probe, cut in zip(own_probes, cuts, strict=True):
                values = [value for block in blocks for value in units[layer.key(cut, block)]["kl_nats"]]
                losses[probe] = statistics.fmean(values)
            done += len(own_probes)
            tick()
        return [losses[probe] for probe in probes]
