"""Plans from a stored profile: baselines, digests, the effect of every input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.ask.constraints import parse_constraints
from allocator.plan.documents.plan import Plan
from allocator.plan.explain import explain
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from allocator.plan.prices import price_per
from tests.support.profiles import SMALL, SMALL_DENSE, small_costs, small_profile, thinned_profile
from tests.support.programs import least_loss, within

BUDGETS = ["block_params=0.7", "kv_bytes_per_token=0.6"]


def test_the_plan_is_the_best_of_all_ranks_on_a_profile_small_enough_to_enumerate() -> None:
    profile = thinned_profile()
    curves = list(profile.curves)
    geometry = profile.model.geometry
    costs, budgets = CostModel(geometry), parse_budgets(BUDGETS)
    assert solve_only(profile) == pytest.approx(least_loss(curves, within(costs, budgets)), rel=1e-5)


def solve_only(profile: dict) -> float:
    """The program's optimum on a profile whose options were thinned (baselines need all of them)."""
    from allocator.plan.program.options import options_of, program_of
    from allocator.plan.program.solve import solve

    curves = list(profile.curves)
    costs = CostModel(profile.model.geometry)
    limits = parse_constraints(None, costs.geometry, {(c.layer, c.component): c.ranks for c in curves})
    options = options_of(curves, costs, limits, ())
    return solve(*program_of(curves, costs, parse_budgets(BUDGETS), limits, options)).loss_nats


def test_a_plan_document_holds_what_it_promises() -> None:
    plan = plan_from_profile(small_profile(), BUDGETS)
    assert plan.costs == small_costs(plan.chosen)
    assert plan.dense == SMALL_DENSE == small_costs(Ranks.dense(SMALL))
    # 70 % of 73,728 block parameters and 60 % of 256 bytes; prices of what is 1 to 10 % of that.
    block, cache = plan.budgets
    assert block.used == plan.costs["block_params"] <= block.limit == 51_609
    assert cache.used == plan.costs["kv_bytes_per_token"] <= cache.limit == 153
    for budget, amount, named in (
        (block, 1000, "1 K block parameters"),
        (cache, 10, "10 bytes of KV cache per token"),
    ):
        nats, _, told = budget.shadow_price_text.partition(" nats per ")
        assert told == named
        assert float(nats) == pytest.approx(amount * budget.shadow_price, rel=0.05)
        assert budget.shadow_price > 0
    assert plan.predicted.loss_nats <= plan.baseline["uniform_kind"].predicted_loss_nats + 1e-12
    kinds, single = (plan.baseline[name].predicted_loss_nats for name in ("uniform_kind", "uniform"))
    assert kinds <= single + 1e-12
    assert Plan.stored(json.loads(json.dumps(plan.document))) == plan


def test_a_plan_is_named_by_what_a_budget_means_and_not_by_how_it_is_written() -> None:
    profile = small_profile()
    plan = plan_from_profile(profile, BUDGETS)
    for written in (["block_params=70%", "kv_bytes_per_token=0.6x"], ["block_params = 0.70", BUDGETS[1]]):
        other = plan_from_profile(profile, written)
        assert other.digest == plan.digest
        assert [row.text for row in other.budgets] == written
        assert [row.understood for row in other.budgets] == [row.understood for row in plan.budgets]
    limit = plan.budgets[0].limit
    assert f"block_params <= {limit:,} parameters (70 % of " in plan.budgets[0].understood


def test_the_digest_names_content_and_nothing_else() -> None:
    profile = small_profile()
    plan = plan_from_profile(profile, BUDGETS, created_by="ann")
    again = plan_from_profile(profile, BUDGETS, created_by="bob")
    assert plan.digest == again.digest == plan.own_digest
    script = (
        "import json, sys; from allocator.plan.documents.plan import Plan; "
        "document = json.loads(sys.stdin.read(), object_pairs_hook=lambda pairs: dict(reversed(pairs))); "
        "print(Plan.stored(document).own_digest)"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(plan.document),
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == plan.digest
    assert plan_from_profile(profile, BUDGETS[::-1]).digest == plan.digest
    dense, uniform = (
        plan_from_profile(profile, ["params=1"], allocation=rule) for rule in ("ilp", "uniform")
    )
    assert dense.ranks == uniform.ranks
    assert dense.digest != uniform.digest, "one is proven, the other is not"
    other = plan_from_profile(profile, ["block_params=0.7"])
    assert other.digest != plan.digest
    first, *others = plan.ranks
    changed = plan.replaced(ranks=(first.replaced(ov=first.ov - 1), *others))
    assert changed.own_digest != plan.digest


def test_a_tighter_budget_never_predicts_less_loss() -> None:
    profile = small_profile()
    losses = [
        plan_from_profile(profile, [f"params={share}"]).predicted.loss_nats
        for share in (1, 0.9, 0.8, 0.7, 0.65)
    ]
    assert losses[0] == 0.0
    assert losses == sorted(losses)


def test_uniform_allocation_carries_no_certificate() -> None:
    plan = plan_from_profile(small_profile(), BUDGETS, allocation="uniform")
    assert plan.ranks == plan.baseline["uniform"].ranks
    assert plan.certificate is None
    with pytest.raises(InvalidInput, match=r"^allocation: 'best' is not ilp or uniform$") as caught:
        plan_from_profile(small_profile(), BUDGETS, allocation="best")
    assert [(error.field, error.found) for error in caught.value.fields] == [("allocation", "best")]


@pytest.mark.parametrize(
    "budget", ["params=0.01", "kv_bytes_per_token=0.01", "memory=2K@context=100", "flops_per_token=3"]
)
def test_infeasible_budgets_say_the_least_and_that_value_works(budget: str) -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        plan_from_profile(small_profile(), [budget, "block_params=0.9"])
    (missed, met) = caught.value.extra["achievable"]
    assert (missed["met"], met["met"]) == (False, True)
    head, at, options = missed["metric"].partition("@")
    plan = plan_from_profile(small_profile(), [f"{head}={missed['minimum']}{at}{options}"])
    assert plan.budgets[0].used == missed["minimum"]


def test_the_planning_core_loads_neither_torch_nor_a_database() -> None:
    script = (
        "import sys, allocator.plan.planning; "
        "print([name for name in ('torch', 'transformers', 'sqlalchemy', 'celery') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("budget", "price", "limit", "text"),
    [
        ("memory=24GiB@batch=8,context=131072", 4.0e-11, 24 * 2**30, "0.040 nats per 1 GB of memory"),
        ("memory=3G@context=4096", 4.0e-11, 3 * 10**9, "0.0040 nats per 100 MB of memory"),
        ("params=0.8", 1.2e-8, 26_000_000, "0.012 nats per 1 M parameters"),
        ("kv_bytes_per_token=0.5", 1e-6, 65_536, "0.0010 nats per 1 KB of KV cache per token"),
        ("kv_bytes_per_token=9", 0.5, 9, "0.50 nats per 1 byte of KV cache per token"),
        ("block_params=1", 0.0, 10**9, "0 nats: more of it would win nothing"),
        ("params=0.8", 13.0, 260, "1.3e+02 nats per 10 parameters"),
    ],
)
def test_prices_are_told_in_units_of_the_budgets_size(
    budget: str, price: float, limit: int, text: str
) -> None:
    (parsed,) = parse_budgets([budget])
    assert price_per(parsed.metric, price, limit) == text


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4", "int4packed"])
def test_no_memory_budget_is_exceeded_whatever_the_weights_are_held_in(kind: str) -> None:
    profile = small_profile()
    costs = CostModel(profile.model.geometry)
    for share in ("0.85", "0.9", "0.97"):
        budget = f"memory={share}@batch=2,context=64,weights={kind},cache=fp8"
        plan = plan_from_profile(profile, [budget, "block_params=0.9"])
        (parsed,) = parse_budgets([budget])
        used = costs.total(parsed.metric, plan.chosen)
        assert plan.budgets[0].used == used <= plan.budgets[0].limit
        assert plan.certificate.status == "optimal"
        assert explain(plan, profile).budgets[0].left == plan.budgets[0].limit - used
