"""Why a plan is as it is: what the next step of every component would save or cost, against what its budgets are worth.

A budget's shadow price (nats per unit, from the linear relaxation) turns what a step takes from the budgets into nats. In an
optimal plan a step up saves less than it takes, and a step down frees less than it loses, but for what whole steps and the
slack of budgets leave over.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocator.base.errors import Conflict
from allocator.plan.ask.constraints import Place
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.explanation import (
    ExplainedBudget,
    ExplainedComponent,
    Explanation,
    NextStep,
)
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.precision import JOINT, LATENT, Form, bits_in, latent_rows
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import question_of


def explain(plan: Plan, profile: Profile) -> Explanation:
    """Every component with its next steps, and every budget with what it is worth.

    Args:
        plan: made from ``profile``.

    Raises:
        Conflict: the plan was made from another profile.
    """
    if plan.profile_key != profile.key:
        raise Conflict(
            f"plan {plan.digest[:12]} was made from profile {plan.profile_key[:12]}, not from {profile.key[:12]}"
        )
    question = question_of(plan, profile)
    costs, budgets, limits = question.costs, question.budgets, question.limits
    chosen, options = plan.chosen, question.by_place()
    prices = [row.shadow_price or 0.0 for row in plan.budgets]
    tied = {place for tie in limits.ties for place in tie}
    components = []
    for curve in profile.curves:
        place: Place = (curve.layer, curve.component)
        rank, form = chosen.at(*place)
        ranks = [option_rank for option_rank, option_form in options[place] if option_form == form]
        spot = ranks.index(rank)
        charges = (_charges(costs, budget.metric, chosen, place, ranks, form) for budget in budgets)
        worth = [
            sum(price * charge for price, charge in zip(prices, column, strict=True))
            for column in zip(*charges, strict=True)
        ]

        def step(
            to: int,
            curve: Curve = curve,
            ranks: Sequence[int] = ranks,
            spot: int = spot,
            worth: Sequence[float] = worth,
            form: Form = form,
        ) -> NextStep | None:
            if not 0 <= to < len(ranks):
                return None
            change = curve.loss_at(ranks[to], form) - curve.loss_at(ranks[spot], form)
            return NextStep(rank=ranks[to], change_nats=change, worth_nats=worth[to] - worth[spot])

        up, down = step(spot + 1), step(spot - 1)
        components.append(
            ExplainedComponent.model_validate(
                {
                    "layer": curve.layer,
                    "component": curve.component,
                    "rank": rank,
                    "bits": bits_in(form),
                    **({} if form is None or isinstance(form, int) else latent_rows([form])),
                    "full_rank": curve.ranks[-1],
                    "loss_nats": curve.loss_at(rank, form),
                    "up": up,
                    "down": down,
                    "why": _why(
                        rank,
                        form,
                        curve.ranks[-1],
                        up,
                        down,
                        tied=place in tied,
                        others=len(options[place]) > len(ranks),
                    ),
                }
            )
        )
    return Explanation(
        plan=plan.digest,
        budgets=tuple(
            ExplainedBudget(
                text=row.text,
                unit=row.unit,
                binding=row.binding,
                left=row.limit - row.used,
                price_nats=row.shadow_price,
            )
            for row in plan.budgets
        ),
        components=tuple(components),
    )


def _charges(
    costs: CostModel, metric: Metric, chosen: Ranks, place: Place, ranks: Sequence[int], form: Form
) -> list[int]:
    """Charges of a component at each of ``ranks``, with what it then costs together with the other of its pair."""
    layer, component = place
    alone = costs.charges(metric, component, layer, ranks, [form] * len(ranks))
    if component == "mlp":
        return list(alone)
    pair = {c: chosen.at(layer, c) for c in ("qk", "ov")}
    return [
        charge + costs.shared(metric, layer, **pair | {component: (rank, form)})
        for charge, rank in zip(alone, ranks, strict=True)
    ]


def _why(
    rank: int,
    form: Form,
    full: int,
    up: NextStep | None,
    down: NextStep | None,
    *,
    tied: bool,
    others: bool,
) -> str:
    """One sentence for people, without a minus before nothing (0 - x, where -x would be -0)."""
    words = {None: "", JOINT: " in one latent of all heads", LATENT: " with queries of one latent"}
    width = f" in {form} bits" if isinstance(form, int) else words[form]
    if up is None and down is None:
        form_alone = " in this form" if others else ""
        return f"{'whole' if rank == full else rank}{width}: it may take no other rank{form_alone}"
    state = ("whole" if rank == full else f"cut to {rank} of {full}") + width
    reasons = []
    if down is not None:
        reasons.append(
            f"a step down to {down.rank} would lose {down.change_nats:.2g} nats"
            f" and free what is worth {0 - down.worth_nats:.2g}"
        )
    if up is not None:
        reasons.append(
            f"a step up to {up.rank} would save {0 - up.change_nats:.2g} nats"
            f" and take what is worth {up.worth_nats:.2g}"
        )
    ending = "; it shares its rank with other layers" if tied else ""
    return f"{state}: {'; '.join(reasons)}{ending}"
