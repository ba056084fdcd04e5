"""The turns of models: seconds of a prefill or a decoding step, model by model and round by round."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from allocator.plan.model.latency import PREFILL, Workload
from allocator.profiling.timing.design import DENSE, ModelName
from allocator.profiling.timing.models import Setup
from solvers.families import FAMILIES

_MOST_PASSES = 64


def times_at(
    setup: Setup,
    models: Mapping[ModelName, Any],
    places: Sequence[Workload],
    on_turn: Callable[[int, int], None],
) -> Iterator[tuple[Workload, dict[ModelName, list[float]]]]:
    """The seconds of a pass of every model at each place, round by round.

    Args:
        on_turn: called after every turn of one model with how many are done, and of how many.
    """
    total, done = len(places) * (setup.rounds + 1) * len(models), 0
    for place in places:
        seconds: dict[ModelName, list[float]] = {name: [] for name in models}
        for _ in _turns(setup, models, place, seconds):
            done += 1
            on_turn(done, total)
        yield place, seconds


def _turns(
    setup: Setup, models: Mapping[ModelName, Any], place: Workload, seconds: dict[ModelName, list[float]]
) -> Iterator[None]:
    """Seconds of a pass, turn by turn, into ``seconds``; the first round warms up and finds how many passes make a turn."""
    order, passes = list(seconds), 1
    for turn in range(setup.rounds + 1):
        for name in order:
            duration = seconds_of_a_pass(setup, models[name], place, passes)
            if turn:
                seconds[name].append(duration)
            elif name == DENSE:
                passes = _passes(setup, place, duration)
            yield
        order.reverse()


def _passes(setup: Setup, place: Workload, seconds: float) -> int:
    """The number of passes in a turn; decoding ones must not take the context far from what was asked for."""
    _, context, phase = place
    most = _MOST_PASSES if phase == PREFILL else min(_MOST_PASSES, max(context // 2, 1))
    return min(max(round(setup.turn_s / max(seconds, 1e-9)), 1), most)


@torch.no_grad()
def seconds_of_a_pass(setup: Setup, model: Any, place: Workload, passes: int) -> float:
    """A pass's seconds, the mean of several after one that warms up."""
    batch, context, phase = place
    ids = torch.randint(
        model.config.vocab_size, (batch, context if phase == PREFILL else 1), device=setup.device
    )
    names = inspect.signature(model.forward).parameters
    argument = "cache" if "cache" in names else "past_key_values"
    head_options = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
    caches = [_cache(setup, model, place, passes)] * (passes + 1)
    if phase == PREFILL:
        caches = [DynamicCache(config=model.config) for _ in range(passes + 1)]
    started = 0.0
    for number, cache in enumerate(caches):
        if number == 1:
            started = _now(setup)
        model(ids, use_cache=True, **{argument: cache}, **head_options)
    return (_now(setup) - started) / passes


def _cache(setup: Setup, model: Any, place: Workload, passes: int) -> Any:
    """A cache that the middle one of the decoding steps finds filled with all positions but its own."""
    batch, context, phase = place
    cache = DynamicCache(config=model.config)
    cached = min(context - 1 - passes // 2, setup.geometry.max_positions - passes - 1)
    if phase == PREFILL or cached <= 0:
        return cache
    architecture = FAMILIES[setup.config.model_type].architecture
    for index, layer in enumerate(architecture.layers_of(model)):
        attention = getattr(layer, architecture.attention_name)
        keys, values = (
            torch.randn(batch, attention.kv_heads, cached, rank, device=setup.device, dtype=setup.dtype)
            for rank in (attention.qk_rank, attention.ov_rank)
        )
        cache.update(keys, values, index)
    return cache


def _now(setup: Setup) -> float:
    if setup.device.type == "cuda":
        torch.cuda.synchronize(setup.device)
    return setup.clock()
