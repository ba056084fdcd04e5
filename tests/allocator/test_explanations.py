"""Whole explanations: every step is what the plan with one rank changed would lose and take, and the words say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allocator.base.errors import Conflict
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.explain import explain
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.precision import Form
from allocator.plan.planning import plan_from_profile
from allocator.plan.targets.registry import TARGETS
from tests.support.plans import ranks_of
from tests.support.profiles import SMALL, gradient_profile, measured_profile, quantized_profile, small_profile

FULL = {"qk": 16, "ov": 16, "mlp": 128}
FORMS: dict[str, Form] = {"joint": "joint", "latent": "latent"}


def told(answer: Any) -> Any:
    """An explanation as JSON has it."""
    document = getattr(answer, "document", answer)
    return json.loads(json.dumps(document() if callable(document) else document))


def form_of(row: dict[str, Any], component: str) -> Form:
    return row.get("bits", {}).get(component) or FORMS.get(row.get(f"{component}_form", ""))


def ranks_in(profile: Profile, layer: int, component: str, form: Form) -> list[int]:
    """The ranks that a component has in a form, by the profile's own document."""
    (curve,) = (c for c in profile.document["curves"] if (c["layer"], c["component"]) == (layer, component))
    if form is None:
        return list(curve["ranks"])
    return list(curve["quantized"][str(form)]["ranks"] if isinstance(form, int) else curve[form]["ranks"])


def expected(plan: Plan, profile: Profile, target: str = "transformers") -> dict[str, Any]:
    """The explanation without its words and of a plan without constraints on ranks, from plans with one rank changed."""
    costs = CostModel(plan.model.geometry, target=TARGETS[target])
    budgets = parse_budgets([row.text for row in plan.budgets])
    losses = {(curve.layer, curve.component): curve for curve in profile.curves}

    def step(layer: int, component: str, to: int | None, form: Form) -> dict[str, Any] | None:
        if to is None:
            return None
        rows = plan.chosen.layers()
        before = rows[layer][component]
        rows[layer][component] = to
        after, curve = ranks_of(rows), losses[layer, component]  # type: ignore[index]
        worth = sum(
            (row.shadow_price or 0)
            * (costs.total(budget.metric, after) - costs.total(budget.metric, plan.chosen))
            for row, budget in zip(plan.budgets, budgets, strict=True)
        )
        change = curve.loss_at(to, form) - curve.loss_at(before, form)
        return {
            "rank": to,
            "change_nats": pytest.approx(change, rel=1e-9, abs=1e-15),
            "worth_nats": pytest.approx(worth, rel=1e-9, abs=1e-15),
        }

    components = []
    for curve in profile.curves:
        layer, component = curve.layer, curve.component
        row = plan.chosen.layers()[layer]
        rank, form = row[component], form_of(row, component)
        ranks = ranks_in(profile, layer, component, form)
        above, below = ([r for r in ranks if r > rank], [r for r in ranks if r < rank])
        components.append(
            {
                "layer": layer,
                "component": component,
                "rank": rank,
                "bits": form if isinstance(form, int) else None,
                **({f"{component}_form": form} if isinstance(form, str) else {}),
                "full_rank": FULL[component],
                "loss_nats": pytest.approx(curve.loss_at(rank, form), rel=1e-12),
                "up": step(layer, component, min(above, default=None), form),
                "down": step(layer, component, max(below, default=None), form),
            }
        )
    return {
        "plan": plan.digest,
        "budgets": [
            {
                "text": row.text,
                "unit": budget.metric.unit,
                "binding": row.binding,
                "left": budget.limit(costs) - costs.total(budget.metric, plan.chosen),
                "price_nats": row.shadow_price,
            }
            for row, budget in zip(plan.budgets, budgets, strict=True)
        ],
        "components": components,
    }


def words(each: dict[str, Any]) -> str:
    """The sentence that says the same as the numbers, of a component that may take other ranks."""
    held = ""
    if each["bits"] is not None:
        held = f" in {each['bits']} bits"
    elif "ov_form" in each:
        held = " in one latent of all heads"
    elif "qk_form" in each:
        held = " with queries of one latent"
    cut = "whole" if each["rank"] == each["full_rank"] else f"cut to {each['rank']} of {each['full_rank']}"
    parts = []
    if down := each["down"]:
        parts.append(
            f"a step down to {down['rank']} would lose {down['change_nats']:.2g} nats and free what is worth"
            f" {0 - down['worth_nats']:.2g}"
        )
    if up := each["up"]:
        parts.append(
            f"a step up to {up['rank']} would save {0 - up['change_nats']:.2g} nats and take what is worth"
            f" {up['worth_nats']:.2g}"
        )
    return f"{cut}{held}: {'; '.join(parts)}"


PROFILES: dict[str, tuple[Profile, list[str], dict[str, Any]]] = {
    "heads": (small_profile(), ["block_params=0.7", "kv_bytes_per_token=0.6"], {}),
    "a loose budget": (small_profile(), ["params=1", "kv_bytes_per_token=0.6"], {}),
    "whole": (small_profile(), ["params=1"], {}),
    "the least": (small_profile(), ["kv_bytes_per_token=24"], {}),
    "uniform": (small_profile(), ["block_params=0.7"], {"allocation": "uniform"}),
    "bits": (quantized_profile(), ["memory=0.4@context=512", "kv_bytes_per_token=0.7"], {}),
    "joint": (gradient_profile(latents=("latent", "joint")), ["kv_bytes_per_token=0.5"], {}),
    "latent": (
        gradient_profile(SMALL.replaced(fixed=("qk",)), latents=("latent", "joint")),
        ["block_params=0.6"],
        {},
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_every_step_is_what_the_plan_that_takes_it_would_change(name: str) -> None:
    profile, budgets, options = PROFILES[name]
    plan = plan_from_profile(profile, budgets, **options)
    explanation = told(explain(plan, profile))
    sentences = [each.pop("why") for each in explanation["components"]]
    assert explanation == expected(plan, profile)
    for each, why in zip(explanation["components"], sentences, strict=True):
        if each["up"] or each["down"]:
            assert why == words(each)
            assert "-0 " not in f"{why} "


@pytest.mark.parametrize(
    ("windows", "budget"), [((), "kv_bytes_per_token=0.8"), ((16, 16), "memory=0.85@batch=8,context=64")]
)
def test_steps_of_a_pair_take_what_both_then_cost(windows: tuple[int, ...], budget: str) -> None:
    profile = measured_profile(SMALL.replaced(windows=windows))
    plan = plan_from_profile(profile, [budget], constraints={"target": ["vllm"]})
    explanation = told(explain(plan, profile))
    for each in explanation["components"]:
        del each["why"]
    assert explanation == expected(plan, profile, "vllm")
    assert any(each["up"] and each["up"]["worth_nats"] > 0 for each in explanation["components"])


def test_a_component_that_may_take_no_other_rank_says_so_and_whether_other_forms_have_some() -> None:
    profile = small_profile()
    constraints = {"pin": ["0.qk=dense", "1.ov=3"], "tie": ["mlp"]}
    plan = plan_from_profile(profile, ["params=0.9"], constraints=constraints)
    explanation = told(explain(plan, profile))["components"]
    why = {(each["layer"], each["component"]): each["why"] for each in explanation}
    assert why[0, "qk"] == "whole: it may take no other rank"
    assert why[1, "ov"] == "3: it may take no other rank"
    for layer in range(2):
        (mlp,) = (each for each in explanation if (each["layer"], each["component"]) == (layer, "mlp"))
        assert why[layer, "mlp"] == f"{words(mlp)}; it shares its rank with other layers"
    assert "shares" not in why[0, "ov"]
    quantized, pins = quantized_profile(), {"pin": ["*.qk=dense", "*.ov=dense", "*.mlp=dense"]}
    plan = plan_from_profile(quantized, ["memory=0.54@context=1"], constraints=pins)
    for each in told(explain(plan, quantized))["components"]:
        assert each["bits"] in (8, 4)
        assert each["why"] == f"whole in {each['bits']} bits: it may take no other rank in this form"


def test_a_plan_of_another_profile_is_refused_by_both_names() -> None:
    plan = plan_from_profile(small_profile("a" * 20), ["params=0.9"])
    with pytest.raises(Conflict) as caught:
        explain(plan, small_profile("b" * 20))
    assert caught.value.detail == (
        f"plan {plan.digest[:12]} was made from profile {'a' * 12}, not from {'b' * 12}"
    )
