"""How far profiles can be believed: ``python -m benchmarks.profiles [--models NAME ...] [--json FILE] [--resume]``.

Interpolated against measured losses at ranks never measured, predicted against measured losses of whole plans, and what each
effort costs and loses. Profiles come from real jobs with the default solver.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from allocator.base.statistics import mean_and_stderr
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.documents.curve import Curve
from allocator.plan.effort import EFFORTS
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.problem import predicted_loss
from allocator.profiling.needs import Cut, LayerNeeds
from allocator.profiling.work import layer_passes
from allocator.stages.layer_measurer import LayerMeasurer
from benchmarks import profile_tables
from benchmarks.allocation import Case, cases
from benchmarks.profiled import Home, Model, Profile
from benchmarks.random_plans import random_plans
from benchmarks.rows import Row, Rows
from solvers.weights import LayerWeights

SEED = 4
POINTS = 4
"""Unmeasured ranks of every component of every layer."""
PLANS = 30
KEEPS = ("0.9", "0.8", "0.6")
PLANNED = "planned"

UnitPayloads = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class HeldOut(LayerNeeds):
    """A layer of which other ranks are measured than its effort asks for, on windows chosen by the effort's own rule."""

    other_cuts: tuple[Cut, ...] = ()

    @property
    def cuts(self) -> list[Cut]:
        return list(self.other_cuts)


def measured(profile: Profile, layer: LayerNeeds, cuts: Sequence[Cut]) -> dict[Cut, list[float]]:
    """KL of each window of these cuts, by the profile stage's own code."""
    held_out = HeldOut(
        layer.identity,
        layer.geometry,
        layer.index,
        layer.windows,
        fully_measured=True,
        other_cuts=tuple(cuts),
    )
    measuring = LayerMeasurer(profile.finished, held_out, lambda: None)
    units: UnitPayloads = {}
    while missing := held_out.missing(units):
        units |= measuring.losses(missing)
    return {cut: held_out.values(units, cut) for cut in cuts}


def unmeasured(profile: Profile, layer: int, count: int, seed: Sequence[int]) -> list[Cut]:
    """Up to ``count`` random candidate ranks of each component between its measured ones."""
    generator = np.random.default_rng([*seed, layer])
    cuts: list[Cut] = []
    for curve in profile.curves:
        if curve.layer == layer:
            ranks_measured = [point.rank for point in curve.measured]
            free = [
                rank for rank in curve.ranks[:-1] if rank not in ranks_measured and rank < max(ranks_measured)
            ]
            if free:
                picked = generator.choice(free, min(count, len(free)), replace=False)
                cuts += [(curve.component, int(rank)) for rank in sorted(picked)]
    return cuts


def point_rows(model: str, profile: Profile, layer: LayerNeeds, cuts: Sequence[Cut]) -> list[Row]:
    """The curve's word for each cut beside its measured loss."""
    curves: dict[str, Curve] = {
        curve.component: curve for curve in profile.curves if curve.layer == layer.index
    }
    rows = []
    for cut, values in measured(profile, layer, cuts).items():
        component, rank = cut[0], cut[1]
        loss, stderr = mean_and_stderr(values)
        rows.append(
            {
                "kind": "point",
                "model": model,
                "layer": layer.index,
                "component": component,
                "rank": rank,
                "predicted_nats": curves[component].loss_at(rank),
                "measured_nats": loss,
                "stderr_nats": stderr,
                "windows": len(values),
            }
        )
    return rows


def own_rows(model: str, profile: Profile) -> list[Row]:
    """The curves' own errors of interpolation, each measured point left out in turn."""
    points = [
        (curve.component, point.predicted_nats, point.measured_nats)
        for curve in profile.curves
        for point in curve.held_out
    ]
    return [
        {
            "kind": "own",
            "model": model,
            "component": c,
            "pairs": [pair for name, *pair in points if name == c],
        }
        for c in COMPONENTS
    ]


def plan_row(model: Model, profile: Profile, ranks: Ranks) -> Row:
    """Predicted and measured loss of a whole model; ``halves``: of every other window, the noise of the measurement."""
    windows, row = profile.layers[0].windows, {}
    for name, layers in (("one_shot", model.one_shot(ranks)), ("delivered", model.delivered(ranks))):
        values = model.kl(layers, windows)
        loss, stderr = mean_and_stderr(values)
        halves = [mean_and_stderr(values[half::2])[0] for half in (0, 1)]
        row[name] = {"nats": loss, "stderr_nats": stderr, "halves": halves}
    return {"predicted_nats": predicted_loss(profile.curves, ranks), **row}


def budgeted_plans(
    name: str, model: Model, profile: Profile, keep: str, count: int
) -> Iterator[tuple[Row, Ranks]]:
    """The head of each row and its ranks: the planned ones first, then ``count`` random ones."""
    (budget,) = parse_budgets([f"block_params={keep}"])
    generator = np.random.default_rng([SEED, crc32(name.encode()), int(100 * float(keep))])
    plan = plan_from_profile(profile.document, [budget.text])
    planned = plan.chosen
    heads: list[tuple[int | str, float | None, Ranks]] = [(PLANNED, None, planned)]
    randoms = random_plans(model.costs, budget, count, generator)
    heads += [
        (number, random_plan.concentration, random_plan.ranks) for number, random_plan in enumerate(randoms)
    ]
    for number, concentration, ranks in heads:
        head = {"kind": "plan", "model": name, "keep": keep, "plan": number, "concentration": concentration}
        spent = {"block_params": model.costs.total(budget.metric, ranks), "limit": budget.limit(model.costs)}
        yield {**head, **spent, "ranks": {c: list(ranks.of(c)) for c in COMPONENTS}}, ranks


def replay(layer: LayerNeeds, units: UnitPayloads, start: UnitPayloads) -> tuple[UnitPayloads, int]:
    """Measurements that the layer's effort asks for, round by round as the profile stage does, with ``start`` known already.

    Args:
        units: key -> measured loss; the decision depends on nothing else, so what would have been measured is known.

    Returns:
        ``start`` and what was asked for, and what measuring that took in windows times layers.
    """
    units_by_key, total, visited = dict(start), 0, set[int]()
    while missing := layer.missing(units_by_key):
        for block, cuts in missing.items():
            round_units = {layer.key(cut, block): units[layer.key(cut, block)] for cut in cuts}
            windows = len(next(iter(round_units.values()))["kl_nats"])
            total += layer_passes(
                layer.index,
                layer.geometry.layers,
                len(cuts),
                windows,
                around=False,
                # Layers come one after the other: the dense model goes on from the one before.
                reference=0 if block in visited else 1 if layer.index else None,
            )
            visited.add(block)
            units_by_key |= round_units
    return units_by_key, total


MEASURED = tuple(name for name, effort in EFFORTS.items() if not effort.gradient_windows)
"""Efforts that measure every curve: what each takes beyond the one before can be replayed."""


def effort_rows(name: str, home: Home) -> list[Row]:
    """All efforts one after the other in one store, each asked for twice; what each takes in an empty store is replayed."""
    rows: list[Row] = []
    earlier_units: list[UnitPayloads] = []
    for effort in MEASURED:
        profile, again = home.profile(effort), home.profile(effort)
        layers, units = profile.layers, profile.units()
        earlier_units = earlier_units or [{} for _ in layers]
        alone = sum(replay(*pair, {})[1] for pair in zip(layers, units, strict=True))
        extended = [replay(*three) for three in zip(layers, units, earlier_units, strict=True)]
        earlier_units = [layer_units for layer_units, _ in extended]
        calibration = profile.document.calibration
        job_windows = calibration.fit_windows + min(layers[0].effort.most_windows, layers[0].windows)
        rows.append(
            {
                "kind": "effort",
                "model": name,
                "effort": effort,
                **profile.document.cost,
                "alone": alone,
                "layers": len(layers),
                "extending": sum(total for _, total in extended),
                "actual_per_layer": alone / job_windows / len(layers) ** 2,
                "forward_passes": profile.passes,
                "second_job_passes": again.passes,
            }
        )
    return rows


def outcome_rows(name: str, model: Model, profiles: dict[str, Profile], keep: str) -> list[Row]:
    """Delivered models by each effort's plan and by uniform ranks, all on the widest effort's windows."""
    widest = list(profiles.values())[-1]
    plans = {
        effort: plan_from_profile(profile.document, [f"block_params={keep}"])
        for effort, profile in profiles.items()
    }
    allocations = {"uniform": plans["thorough"].baseline["uniform"].chosen}
    allocations |= {effort: plan.chosen for effort, plan in plans.items()}
    outcomes: dict[Ranks, Row] = {}
    rows = []
    for allocation, ranks in allocations.items():
        if ranks not in outcomes:
            outcomes[ranks] = _outcome(model, model.delivered(ranks), widest.layers[0].windows)
        rows.append(
            {"kind": "outcome", "model": name, "keep": keep, "allocation": allocation, **outcomes[ranks]}
        )
    return rows


def _outcome(model: Model, layers: Sequence[LayerWeights], windows: int) -> Row:
    loss, stderr = mean_and_stderr(model.kl(layers, windows))
    return {"kl_nats": loss, "stderr_nats": stderr, "rise_nats": model.rise(layers)}


def measure(rows: Rows, case: Case, work: Path, *, points: int = POINTS, plans: int = PLANS) -> None:
    """Add what is missing of one model."""
    name = case.name
    if rows.has(kind="done", model=name):
        return
    with closing(Home(case, work / name)) as home:
        if not rows.has(kind="effort", model=name):
            rows.add(effort_rows(name, home))
        profiles = {effort: home.profile(effort) for effort in EFFORTS}
        standard = profiles["standard"]
        if not rows.has(kind="own", model=name):
            rows.add(own_rows(name, standard))
        for layer in standard.layers:
            cuts = unmeasured(standard, layer.index, points, [SEED, crc32(name.encode())])
            if cuts and not rows.has(kind="point", model=name, layer=layer.index):
                rows.add(point_rows(name, standard, layer, cuts))
        model = Model(standard, case)
        for keep in KEEPS:
            if not rows.has(kind="outcome", model=name, keep=keep):
                rows.add(outcome_rows(name, model, profiles, keep))
        for keep in KEEPS:
            for head, ranks in budgeted_plans(name, model, standard, keep, plans):
                if not rows.has(kind="plan", model=name, keep=keep, plan=head["plan"]):
                    rows.add([{**head, **plan_row(model, standard, ranks)}])
    rows.add([{"kind": "done", "model": name}])


def run(
    rows: Rows, work: Path, names: Sequence[str] | None = None, *, points: int = POINTS, plans: int = PLANS
) -> None:
    """Add the rows of all models, or of those named; ``work`` holds texts and homes."""
    for case in cases(work):
        if not names or case.name in names:
            measure(rows, case, work, points=points, plans=plans)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=__doc__)
    parser.add_argument("--models", nargs="+", help="names; all if absent")
    parser.add_argument("--json", type=Path, help="write the rows here, as they come")
    parser.add_argument("--resume", action="store_true", help="go on where this file ends")
    parser.add_argument("--points", type=int, default=POINTS, help="unmeasured ranks of every component")
    parser.add_argument("--plans", type=int, default=PLANS, help="random ones of each budget")
    options = parser.parse_args(argv)
    rows = Rows(options.json, resume=options.resume)
    with tempfile.TemporaryDirectory() as work:
        run(rows, Path(work), options.models, points=options.points, plans=options.plans)
    sys.stdout.write("\n\n".join(profile_tables.tables(rows).values()) + "\n")


if __name__ == "__main__":
    main()
