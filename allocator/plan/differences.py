"""Differences between two plans, ranks and bits: loss and metrics, in numbers and words. No torch, no store."""

from __future__ import annotations

from allocator.base.errors import Conflict, InvalidInput
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.difference import Change, PlanDiff, RankChange
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.costs import LARGEST_BATCH, LARGEST_CONTEXT, CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.metrics.registry import SUMMARY
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.precision import Form, bits_in, shown


def diff_plans(
    a: Plan,
    b: Plan,
    profile: Profile | None = None,
    *,
    batch: int | None = None,
    context: int | None = None,
) -> PlanDiff:
    """The changes from plan ``a`` to plan ``b``: every component whose rank differs, and the totals.

    Args:
        profile: the profile that both were made from, for the change of loss of each component; what is missing then is null,
            and ``losses_note`` says why.
        batch, context: sequences and their length in tokens, for the cache in total; ``batch`` alone is refused.

    Raises:
        Conflict: the plans are for different shapes of model.
        InvalidInput: ``batch`` without ``context``, or one out of range.
    """
    if a.model.geometry != b.model.geometry:
        raise Conflict("the plans are for models of different geometry and cannot be compared rank by rank")
    costs = CostModel(a.model.geometry)
    cached = _cached_tokens(costs.geometry, batch, context)
    curves, note = _curves(a, b, profile)
    before, after = a.chosen, b.chosen
    changes = [
        _change(
            costs, curves, cached, layer, component, before.at(layer, component), after.at(layer, component)
        )
        for layer in range(costs.geometry.layers)
        for component in COMPONENTS
        if before.at(layer, component) != after.at(layer, component)
    ]
    kv_bytes = None if cached is None else sum(change.kv_bytes or 0 for change in changes)
    loss_nats = b.predicted.loss_nats - a.predicted.loss_nats
    changed = {name: b.costs[name] - a.costs[name] for name in SUMMARY}
    return PlanDiff(
        a=a.digest,
        b=b.digest,
        same_weights=a.model.weights_sha256 == b.model.weights_sha256,
        same_profile=a.profile_key == b.profile_key,
        losses_note=note,
        batch=None if cached is None else batch or 1,
        context=context,
        changes=tuple(changes),
        predicted_loss_nats=Change.of(a.predicted.loss_nats, b.predicted.loss_nats),
        costs={name: Change.of(a.costs[name], b.costs[name]) for name in SUMMARY},
        kv_bytes=kv_bytes,
        text=_summary(len(changes), loss_nats, changed, kv_bytes),
    )


def _cached_tokens(geometry: Geometry, batch: int | None, context: int | None) -> list[int] | None:
    """How many positions each layer caches; None where nobody asked."""
    for name, value, largest in (("batch", batch, LARGEST_BATCH), ("context", context, LARGEST_CONTEXT)):
        if value is not None and not 1 <= value <= largest:
            raise InvalidInput.of(name, value, f"a whole number from 1 to {largest}")
    if context is None:
        if batch is not None:
            allowed = "the length of each sequence in tokens, beside batch"
            raise InvalidInput.of("context", "nothing", allowed, "give")
        return None
    return [(batch or 1) * geometry.seen(layer, context) for layer in range(geometry.layers)]


def _curves(a: Plan, b: Plan, profile: Profile | None) -> tuple[dict[tuple[int, str], Curve], str | None]:
    """Curves by place, or none of them and why."""
    if a.profile_key != b.profile_key:
        return (
            {},
            "the plans were made from different profiles, whose losses do not compare component by component",
        )
    if (a.transfer is None) != (b.transfer is None):
        return {}, "one of the plans was transferred, which scales the profile's losses"
    if profile is None:
        return {}, f"profile {a.profile_key[:12]}, which both plans were made from, is not stored here"
    return {(curve.layer, curve.component): curve for curve in profile.curves}, None


def _change(
    costs: CostModel,
    curves: dict[tuple[int, str], Curve],
    cached: list[int] | None,
    layer: int,
    component: Component,
    before: tuple[int, Form],
    after: tuple[int, Form],
) -> RankChange:
    def change(metric: Metric) -> int:
        return costs.cost_of(metric, component, layer, *after) - costs.cost_of(
            metric, component, layer, *before
        )

    changed = {name: change(Metric(name)) for name in SUMMARY}
    weight_bytes = change(Metric("weight_bytes"))
    widths = [bits_in(form) for _, form in (before, after)]
    latents = [None if isinstance(form, int) else form for _, form in (before, after)]
    quantized = widths != [None, None]
    kv_bytes = None if cached is None else cached[layer] * changed["kv_bytes_per_token"]
    curve = curves.get((layer, component))
    loss = None
    if curve is not None and {before, after} <= set(curve.options((8, 4))):
        loss = curve.loss_at(*after) - curve.loss_at(*before)
    words = [
        f"layer {layer} {component.upper()} {shown(*before)} -> {shown(*after)}",
        *_words(loss, changed, kv_bytes),
        *([f"{signed(weight_bytes)}B of weights"] if quantized else []),
    ]
    return RankChange.model_validate(
        {
            "layer": layer,
            "component": component,
            "from": before[0],
            "to": after[0],
            **(
                {"from_bits": widths[0], "to_bits": widths[1], "weight_bytes": weight_bytes}
                if quantized
                else {}
            ),
            **({"from_latent": latents[0], "to_latent": latents[1]} if any(latents) else {}),
            "loss_nats": loss,
            "costs": changed,
            "kv_bytes": kv_bytes,
            "text": ", ".join(words),
        }
    )


def _summary(count: int, loss: float, changed: dict[str, int], kv_bytes: int | None) -> str:
    components = "1 component changes" if count == 1 else f"{count} components change"
    return ", ".join([components, *_words(loss, changed, kv_bytes)])


def _words(loss: float | None, changed: dict[str, int], kv_bytes: int | None) -> list[str]:
    """Loss, cache and parameters, as far as they are known and change."""
    words = [] if loss is None else [f"{loss:+.2g} nats"]
    if changed["kv_bytes_per_token"]:
        cache = (
            f"{signed(kv_bytes)}B KV" if kv_bytes else f"{signed(changed['kv_bytes_per_token'])}B KV/token"
        )
        words.append(cache)
    if changed["params"]:
        words.append(f"{signed(changed['params']).rstrip()} parameters")
    return words


def signed(value: int) -> str:
    """A change with its sign, three digits or so and a decimal prefix: ``-38 M``, ``+512 ``; a unit follows directly."""
    size = float(abs(value))
    for prefix in ("", "k", "M", "G", "T"):
        if size < 999.5 or prefix == "T":
            break
        size /= 1000
    return f"{'-' if value < 0 else '+'}{size:.3g} {prefix}"
