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
from allocator.stages.inputs import prepared
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile import Measuring, layers_of
from allocator.stages.reuse import check_comparable, checked_profile
from allocator.store import Store


class Probing:
    """One item; what it has measured of a layer is kept, should it be interrupted."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("probes")]

    def run(self, context: StageContext) -> dict[str, Any]:
        job, store, facts = context.job, context.store, prepared(context.job)
        profile, plan = checked_profile(store, job.team, job.request)
        check_comparable(profile, facts)
        probes = choose_probes(profile, plan)
        if not probes:
            allowed = "a profile with measured points, or profile this model"
            said = f"{profile.key[:12]} has no measured loss above noise to compare with; use"
            raise InvalidInput.of("profile", profile.key, allowed, said)
        same = facts["weights_sha256"] == profile.model.weights_sha256
        found = [probe.stored_nats for probe in probes] if same else self._measure(context, probes)
        passes = 0 if same else len(probes)
        verdict = {
            "schema": "rankalloc.transfer/1",
            "model": {name: facts[name] for name in ("reference", "weights_sha256")},
            "profile": profile.key,
            "profiled_model": profile.model.reference,
            "measure_windows": facts["first_windows"],
            **judge(profile, probes, found, plan, same_weights=same),
        }
        if plan is not None and verdict["verdict"] == REUSE:
            verdict["plan"]["transferred"] = self._store(context, profile, probes, found, plan)
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
        found: list[float],
        plan: Plan,
    ) -> str:
        """The digest of the plan for this model, which ``compress`` takes from here."""
        team, facts = context.job.team, prepared(context.job)
        named = {name: facts[name] for name in ("reference", "weights_sha256")}
        new = transferred_plan(profile, probes, found, plan, **named)
        context.store.plans.put(team, new, created_by=team)
        context.link(plan_digest=new.digest)
        context.event("plan.transferred", f"plan {new.digest[:12]} is for this model", {"digest": new.digest})
        return new.digest

    def _measure(self, context: StageContext, probes: list[Probe]) -> list[float]:
        """The fine-tune's losses on the first windows, taken from the store where they are known, else kept there."""
        layers, done = [replace(layer, whole=True) for layer in layers_of(context.job)], 0

        def tick() -> None:
            context.progress(done, len(probes), "probes")

        found: dict[Probe, float] = {}
        for index in sorted({probe.layer for probe in probes}):
            layer = layers[index]
            mine = [probe for probe in probes if probe.layer == index]
            cuts: list[Cut] = [(probe.component, probe.rank) for probe in mine]
            blocks = range(layer.first_blocks)
            keys = [layer.key(cut, block) for cut in cuts for block in blocks]
            known = context.store.units.get_many(context.job.team, keys)
            wanted = {
                block: missing
                for block in blocks
                if (missing := [cut for cut in cuts if layer.key(cut, block) not in known])
            }
            if wanted:
                units = Measuring(context, layer, tick).losses(wanted)
                context.store.units.put_many(context.job.team, units)
                known |= units
            for probe, cut in zip(mine, cuts, strict=True):
                values = [value for block in blocks for value in known[layer.key(cut, block)]["kl_nats"]]
                found[probe] = statistics.fmean(values)
            done += len(mine)
            tick()
        return [found[probe] for probe in probes]
