"""What a stored profile answers: whole answers against counts by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.documents.curve import HeldOut
from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.plan.queries import (
    Removal,
    curves_csv,
    hurts_least,
    interpolation_errors,
    most_sensitive,
    select_curves,
    sensitivity,
    whole_model,
)
from tests.support.profiles import (
    SMALL,
    gradient_profile,
    measured_profile,
    quantized_profile,
    small_profile,
)

PROFILE = small_profile()
PLACES = [(layer, component) for layer in (0, 1) for component in ("qk", "ov", "mlp")]


def told(answer: Any) -> Any:
    """An answer as JSON has it, or several by name."""
    if isinstance(answer, dict):
        return {name: told(one) for name, one in answer.items()}
    return json.loads(json.dumps(answer.document))


def loss_of(profile: Profile, layer: int, component: str, rank: int) -> float:
    (curve,) = (c for c in profile.curves if (c.layer, c.component) == (layer, component))
    return curve.loss_nats[curve.ranks.index(rank)]


def removal(layer: int, component: str, rank: int, size: int, unit: int) -> dict[str, Any]:
    """What is cut from ``size``, of which each rank costs ``unit``."""
    loss, saved = loss_of(PROFILE, layer, component, rank), unit * (size - rank)
    return {
        "layer": layer,
        "component": component,
        "from_rank": size,
        "rank": rank,
        "loss_nats": pytest.approx(loss, rel=1e-12),
        "saved": saved,
        "loss_per_unit": pytest.approx(loss / saved, rel=1e-12) if saved else None,
    }


@pytest.mark.parametrize(
    ("metric", "unit", "attention", "neuron", "before"),
    [
        ("block_params", "parameters", 64 * 6, 64 * 3, 73_728),
        ("kv_bytes_per_token", "bytes", 4, 0, 256),
        ("memory@batch=2,context=10", "bytes", 2 * 64 * 6 + 4 * 20, 2 * 64 * 3, 220_000 + 256 * 20),
    ],
)
def test_the_whole_answer(metric: str, unit: str, attention: int, neuron: int, before: int) -> None:
    answer = told(sensitivity(PROFILE, remove=0.25, metric=metric))
    every = [
        removal(
            layer, c, 12 if c != "mlp" else 96, 16 if c != "mlp" else 128, neuron if c == "mlp" else attention
        )
        for layer, c in PLACES
    ]
    # Within a layer all lose the same at the same share, and stand in the order of components.
    losses = [loss_of(PROFILE, cut["layer"], cut["component"], cut["rank"]) for cut in every]
    falling = [cut for _, cut in sorted(zip(losses, every, strict=True), key=lambda pair: -pair[0])]
    rising = [cut for _, cut in sorted(zip(losses, every, strict=True), key=lambda pair: pair[0])]
    limit = 3 * before // 4
    name, at, options = metric.partition("@")
    text = f"{name}={limit}{at}{options}"
    plan = plan_from_profile(PROFILE, [text])
    assert answer == {
        "profile_key": "small",
        "around": None,
        "remove": 0.25,
        "metric": metric,
        "unit": unit,
        "most_sensitive": falling,
        "hurts_least": [cut for cut in rising if cut["saved"]],
        "out_of_reach": [],
        "whole_model": {
            "budget": text,
            "unit": unit,
            "before": before,
            "after": plan.budgets[0].used,
            "loss_nats": plan.predicted.loss_nats,
            "digest": plan.digest,
            "ranks": plan.document["ranks"],
        },
    }
    short = told(sensitivity(PROFILE, remove=0.25, metric=metric, limit=1))
    for name in ("most_sensitive", "hurts_least"):
        assert short[name] == answer[name][:1]


def test_a_layer_with_a_window_saves_the_cache_of_its_window() -> None:
    profile = measured_profile(SMALL.replaced(windows=(8, 0)))
    answer = told(sensitivity(profile, remove=0.25, metric="memory@batch=3,context=100"))
    saved = {(cut["layer"], cut["component"]): cut["saved"] for cut in answer["most_sensitive"]}
    # Four dimensions of six heads over 64 numbers of two bytes; of two heads in each of 3 x 8 or 3 x 100 tokens.
    for layer, tokens in ((0, 8), (1, 100)):
        assert saved[layer, "qk"] == saved[layer, "ov"] == 2 * 4 * (64 * 6 + 2 * 3 * tokens)
        assert saved[layer, "mlp"] == 2 * 32 * 64 * 3


def test_a_tenth_of_the_parameters_of_layers_where_nothing_is_said() -> None:
    answer = told(sensitivity(PROFILE))
    assert (answer["remove"], answer["metric"]) == (0.1, "block_params")
    assert answer == told(sensitivity(PROFILE, remove=0.1, metric="block_params"))
    assert answer["whole_model"] == told(whole_model(PROFILE))
    assert {cut["rank"] for cut in answer["most_sensitive"]} == {14, 114}


def test_equal_losses_are_told_layer_by_layer_in_the_order_of_components() -> None:
    cuts = [
        Removal(
            layer=layer, component=c, from_rank=4, rank=2, loss_nats=loss, saved=saved, loss_per_unit=None
        )  # type: ignore[arg-type]
        for loss, saved in ((0.2, 5), (0.1, 1), (0.3, 0))
        for layer, c in PLACES[::-1]
    ]
    ends = [(loss, layer, c) for loss in (0.3, 0.2, 0.1) for layer, c in PLACES]
    assert [(cut.loss_nats, cut.layer, cut.component) for cut in most_sensitive(cuts)] == ends
    assert [(cut.loss_nats, cut.layer, cut.component) for cut in hurts_least(cuts)] == ends[12:] + ends[6:12]


def test_what_cannot_shrink_so_far_is_told_with_where_it_starts() -> None:
    answer = told(sensitivity(PROFILE, remove=0.9, limit=2))
    assert answer["out_of_reach"] == [{"layer": n, "component": "qk", "from_rank": 16} for n in (0, 1)]
    assert len(answer["most_sensitive"]) == 2


@pytest.mark.parametrize("remove", [0.0, 1.0, 1.5, -0.5])
def test_a_share_is_above_nothing_and_below_all(remove: float) -> None:
    for ask in (sensitivity, whole_model):
        with pytest.raises(InvalidInput) as caught:
            ask(PROFILE, remove=remove)
        (error,) = caught.value.fields
        assert (error.field, error.found) == ("remove", str(remove))
        assert error.allowed == "a fraction above 0 and below 1"


def test_no_plan_reaches_next_to_nothing() -> None:
    assert whole_model(PROFILE, remove=0.999, metric="kv_bytes_per_token") is None
    # The smallest ranks take 24 of 256 bytes.
    assert whole_model(PROFILE, remove=0.907, metric="kv_bytes_per_token") is None
    least = told(whole_model(PROFILE, remove=0.906, metric="kv_bytes_per_token"))
    assert (least["budget"], least["after"]) == ("kv_bytes_per_token=24", 24)


def test_the_whole_model_is_cut_in_its_own_type_and_heads() -> None:
    for profile in (quantized_profile(), gradient_profile(latents=("latent", "joint"))):
        plan = plan_from_profile(profile, ["kv_bytes_per_token=128"], bits=(), latents=False)
        answer = told(whole_model(profile, remove=0.5, metric="kv_bytes_per_token"))
        assert answer["digest"] == plan.digest
        assert answer["ranks"] == plan.document["ranks"]


def of_errors(errors: Sequence[float], component: str = "ov") -> dict[str, Any]:
    """What is told of points that were predicted off by these shares of what was measured."""
    points = [HeldOut(rank=2, measured_nats=0.5, predicted_nats=0.5 * (1 + error)) for error in errors]
    curves = [
        curve.replaced(held_out=tuple(points[curve.layer :: 2]) if curve.component == component else ())
        for curve in PROFILE.curves
    ]
    return told(interpolation_errors(PROFILE.replaced(curves=curves)))


def test_nineteen_of_twenty_errors_are_no_larger_than_the_ninety_fifth_percentile() -> None:
    nothing = {"points": 0, "median": None, "p95": None, "too_small": 0}
    for count, at in ((1, 1), (19, 19), (20, 19), (21, 20), (40, 38)):
        errors = of_errors([n / 100 for n in range(count, 0, -1)])
        assert errors["ov"]["p95"] == pytest.approx(at / 100)
        assert errors["ov"]["median"] == pytest.approx((count + 1) / 200)
        assert errors["ov"]["points"] == count
        assert errors["qk"] == errors["mlp"] == nothing
    assert of_errors([-0.25], "mlp")["mlp"] == {
        "points": 1,
        "median": pytest.approx(0.25),
        "p95": pytest.approx(0.25),
        "too_small": 0,
    }


def test_what_counts_as_noise_is_counted_alone() -> None:
    held_out = [HeldOut(rank=2, measured_nats=loss, predicted_nats=2 * loss) for loss in (1e-5, 9e-6, 1.1e-5)]
    first, *others = PROFILE.curves
    profile = PROFILE.replaced(curves=[first.replaced(held_out=held_out), *others])
    errors = told(interpolation_errors(profile))["qk"]
    shared = sum(len(curve.held_out) for curve in others if curve.component == "qk")
    assert (errors["points"], errors["too_small"]) == (
        1 + sum(p.measured_nats > 1e-5 for c in others if c.component == "qk" for p in c.held_out),
        2 + shared - sum(p.measured_nats > 1e-5 for c in others if c.component == "qk" for p in c.held_out),
    )


def test_curves_are_picked_by_layer_and_component() -> None:
    def places(**asked: Any) -> list[tuple[int, str]]:
        return [(curve.layer, curve.component) for curve in select_curves(PROFILE, **asked)]

    assert places() == PLACES
    assert places(layer=0) == PLACES[:3]
    assert places(layer=1, component="ov") == [(1, "ov")]
    assert places(component="mlp") == [(0, "mlp"), (1, "mlp")]
    assert places(layer=7) == []


def test_curves_as_csv_have_a_line_for_each_rank() -> None:
    curves = select_curves(PROFILE, layer=1)
    text = curves_csv(curves)
    assert text.startswith(
        "layer,component,rank,analytic,loss_nats,measured_nats,stderr_nats,windows\n1,qk,2,"
    )
    assert "\r" not in text
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == sum(len(curve.ranks) for curve in curves)
    at = {(line["component"], int(line["rank"])): line for line in lines}
    for curve in curves:
        points = {point.rank: point for point in curve.measured}
        for rank, analytic, loss in zip(curve.ranks, curve.analytic, curve.loss_nats, strict=True):
            line = at[curve.component, rank]
            assert (int(line["layer"]), float(line["analytic"]), float(line["loss_nats"])) == (
                1,
                analytic,
                loss,
            )
            found = [line[name] for name in ("measured_nats", "stderr_nats", "windows")]
            if rank in points:
                point = points[rank]
                assert found == [str(point.loss_nats), str(point.stderr_nats), str(point.windows)]
            else:
                assert found == ["", "", ""]
    assert curves_csv([]) == text.splitlines()[0] + "\n"
