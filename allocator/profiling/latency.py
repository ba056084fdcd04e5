"""Time a model's components at several ranks on this machine: whole compact models, through the code that will run them.

A few layers of the model's shape with random weights (time does not hang on them) are built at many ranks and take turns,
first to last and back; every time is taken relative to the dense model's of the same turn, so that a change of the machine's
load falls on both. Ranks are changed in all layers at once and the difference divided by their number, around a middle where QK
and OV ranks differ: unequal ones take another path through attention, and plans have unequal ones.
"""

from __future__ import annotations

import inspect
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from allocator.costs import Ranks
from allocator.geometry import COMPONENTS, Component, Geometry
from allocator.latency import LATENCY_SCHEMA, Place, sealed, step_ns
from solvers.families import FAMILIES
from solvers.reading import Inspected

LAYERS = 4
POINTS = 9
ROUNDS = 9
TURN_S = 0.03
"""How long a model's turn lasts, as far as ``_MOST_PASSES`` allow."""
_MOST_PASSES = 64
_CHECKED = (0.3, 0.55, 0.8)
"""Shares of every rank at which a whole model is timed beside what the steps say of it."""


@dataclass(frozen=True)
class Setup:
    """What is measured: the source's config, its geometry, the type of the weights, and how thoroughly."""

    config: Any
    geometry: Geometry
    dtype: torch.dtype
    device: torch.device
    layers: int = LAYERS
    points: int = POINTS
    rounds: int = ROUNDS
    turn_s: float = TURN_S
    clock: Callable[[], float] = time.perf_counter

    @property
    def depth(self) -> int:
        """Layers that are built: at least two, since the others are taken to be like the second half of them."""
        return min(max(self.layers, 2), self.geometry.layers)

    def at(self, depth: int, ranks: Ranks) -> Any:
        """A compact model of so many layers."""
        family = FAMILIES[self.config.model_type]
        config_class, model_class = family.compact
        plain = {
            name: value[:depth] if name == "layer_types" and value else value
            for name, value in self.config.to_dict().items()
            if name not in ("model_type", "architectures", "auto_map", "dtype")
        }
        sizes = {f"{c}_ranks": list(ranks.of(c)[:depth]) for c in COMPONENTS}
        if pairs := family.rotary_pairs(self.config):
            sizes["qk_pairs"] = [min(rank // 2, pairs) for rank in ranks.qk[:depth]]
        count = (
            "n_layer" if "n_layer" in plain else "n_layers" if "n_layers" in plain else "num_hidden_layers"
        )
        config = config_class(**{**plain, count: depth}, **sizes)
        config._attn_implementation = family.attention_implementation
        with self.device:
            return model_class(config).to(self.dtype).eval()


def geometry_without_weights(inspected: Inspected, dtype: torch.dtype) -> tuple[Any, Geometry]:
    """Config and geometry of a model folder; no weights are read."""
    config = AutoConfig.from_pretrained(inspected.folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    geometry = Geometry(
        **FAMILIES[inspected.model_type].geometry(config),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        bytes_per_param=dtype.itemsize,
    )
    return config, geometry


def spread_ranks(candidates: Sequence[int], points: int) -> list[int]:
    """The ranks that are measured: evenly spread, the smallest and the full one among them."""
    last = len(candidates) - 1
    return sorted(
        {candidates[round(spot * last / max(points - 1, 1))] for spot in range(points)} | {candidates[-1]}
    )


class Design:
    """The models that take turns: dense, smallest, each component at each of its ranks around a middle, and for checking."""

    def __init__(self, setup: Setup) -> None:
        g = self.geometry = setup.geometry
        self.ranks = {c: spread_ranks(g.candidate_ranks(c), setup.points) for c in COMPONENTS}
        self.middle = {c: ranks[len(ranks) // 2] for c, ranks in self.ranks.items()}
        between = [
            r for r in g.candidate_ranks("ov") if r not in self.ranks["qk"] and r not in self.ranks["ov"]
        ]
        if between:
            self.middle["ov"] = min(between, key=lambda rank: abs(rank - self.middle["ov"]))
        self.models: dict[tuple[str, Any], Ranks] = {("dense", 0): Ranks.dense(g)}
        self.models["smallest", 0] = self._all({c: ranks[0] for c, ranks in self.ranks.items()})
        for c in COMPONENTS:
            for rank in self.ranks[c]:
                self.models[c, rank] = self._all({c: rank})
        for share in _CHECKED:
            near = {
                c: min(g.candidate_ranks(c), key=lambda rank, c=c: abs(rank - share * g.full_rank(c)))  # type: ignore[misc]
                for c in COMPONENTS
            }
            self.models["check", share] = self._all(near)
        self.center = "ov", next(rank for rank in self.ranks["ov"] if rank >= self.middle["ov"])
        """The model that parts are added to: all its ranks are measured ones."""

    def _all(self, changed: dict[Component, int]) -> Ranks:
        at = {**self.middle, **changed}
        return Ranks(*((at[c],) * self.geometry.layers for c in COMPONENTS))


@torch.no_grad()
def measure(
    setup: Setup,
    places: Sequence[Place],
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The table of a model at these (batch, context, phase)s, with its digest.

    Args:
        on_turn: called after every turn of one model with how many are done, and of how many.
    """
    design, depth = Design(setup), setup.depth
    names: list[tuple[str, Any]] = list(design.models)
    half = max(1, depth // 2)
    models = {name: setup.at(depth, ranks) for name, ranks in design.models.items()}
    if depth < setup.geometry.layers:
        models["half", 0] = setup.at(half, design.models["dense", 0])
        names.append(("half", 0))
    total, done = len(places) * (setup.rounds + 1) * len(names), 0

    def ticked(times: Iterator[Any]) -> None:
        nonlocal done
        for _ in times:
            done += 1
            on_turn(done, total)

    timings = []
    for place in places:
        taken: dict[tuple[str, Any], list[float]] = {name: [] for name in names}
        ticked(_turns(setup, models, place, taken))
        timings.append(_timing(setup, design, place, taken, half))
    return sealed(
        {
            "schema": LATENCY_SCHEMA,
            "geometry": setup.geometry.document(),
            "dtype": str(setup.dtype).removeprefix("torch."),
            "attention": FAMILIES[setup.config.model_type].attention_implementation,
            "layers_measured": depth,
            "rounds": setup.rounds,
            "machine": machine(setup.device),
            "timings": timings,
        }
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What a time hangs on, without names of hosts or people."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return {
        "device": device.type,
        "name": name[:200],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def _turns(
    setup: Setup, models: dict[tuple[str, Any], Any], place: Place, taken: dict[tuple[str, Any], list[float]]
) -> Iterator[None]:
    """Seconds of a pass, turn by turn; the first round warms up and finds how many passes make a turn."""
    order, passes = list(taken), 1
    for turn in range(setup.rounds + 1):
        for name in order:
            seconds = seconds_of_a_pass(setup, models[name], place, passes)
            if turn:
                taken[name].append(seconds)
            elif name == ("dense", 0):
                passes = _passes(setup, place, seconds)
            yield
        order.reverse()


def _passes(setup: Setup, place: Place, seconds: float) -> int:
    """How many passes make a turn; decoding ones must not take the context far from what was asked for."""
    _, context, phase = place
    most = _MOST_PASSES if phase == "prefill" else min(_MOST_PASSES, max(context // 2, 1))
    return min(max(round(setup.turn_s / max(seconds, 1e-9)), 1), most)


def seconds_of_a_pass(setup: Setup, model: Any, place: Place, passes: int) -> float:
    """A pass's seconds, the mean of several after one that warms up."""
    batch, context, phase = place
    ids = torch.randint(
        model.config.vocab_size, (batch, context if phase == "prefill" else 1), device=setup.device
    )
    names = inspect.signature(model.forward).parameters
    argument = "cache" if "cache" in names else "past_key_values"
    last = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
    caches = [_cache(setup, model, place, passes)] * (passes + 1)
    if phase == "prefill":
        caches = [DynamicCache(config=model.config) for _ in range(passes + 1)]
    started = 0.0
    for number, cache in enumerate(caches):
        if number == 1:
            started = _now(setup)
        model(ids, use_cache=True, **{argument: cache}, **last)
    return (_now(setup) - started) / passes


def _cache(setup: Setup, model: Any, place: Place, passes: int) -> Any:
    """A cache that the middle one of the decoding steps finds filled with all positions but its own."""
    batch, context, phase = place
    cache = DynamicCache(config=model.config)
    held = min(context - 1 - passes // 2, setup.geometry.max_positions - passes - 1)
    if phase == "prefill" or held <= 0:
        return cache
    architecture = FAMILIES[setup.config.model_type].architecture
    for index, layer in enumerate(architecture.layers_of(model)):
        attention = getattr(layer, architecture.attention_name)
        keys, values = (
            torch.randn(batch, attention.kv_heads, held, rank, device=setup.device, dtype=setup.dtype)
            for rank in (attention.qk_rank, attention.ov_rank)
        )
        cache.update(keys, values, index)
    return cache


def _now(setup: Setup) -> float:
    if setup.device.type == "cuda":
        torch.cuda.synchronize(setup.device)
    return setup.clock()


def _timing(
    setup: Setup, design: Design, place: Place, taken: dict[tuple[str, Any], list[float]], half: int
) -> dict[str, Any]:
    """A row of the table from the seconds of every turn, all in nanoseconds of the whole model."""
    dense_s = statistics.median(taken["dense", 0])
    depth, layers = setup.depth, setup.geometry.layers
    relative = {
        name: [a / b for a, b in zip(times, taken["dense", 0], strict=True)] for name, times in taken.items()
    }

    def ns(name: tuple[str, Any]) -> float:
        return statistics.median(relative[name]) * dense_s * 1e9

    def spread(name: tuple[str, Any]) -> int:
        low, _, high = statistics.quantiles(relative[name], n=4, method="inclusive")
        return round((high - low) * dense_s * 1e9)

    # What of a layer no rank changes (norms, residuals), and its parts, come with every layer that was not built.
    layer_ns = (ns(("dense", 0)) - ns(("half", 0))) / (depth - half) if ("half", 0) in taken else 0.0
    grown = max(layers - depth, 0)
    parts: dict[str, list[dict[str, int]]] = {}
    for c in COMPONENTS:
        heights, floor = [], 0.0
        for rank in design.ranks[c]:
            # Noise may say that a smaller rank is slower: the larger one is then charged as much.
            floor = max(floor, ns((c, rank)))
            heights.append(floor)
        parts[c] = [
            {
                "rank": rank,
                "ns": round((height - heights[0]) / depth),
                "spread_ns": round(spread((c, rank)) / depth),
            }
            for rank, height in zip(design.ranks[c], heights, strict=True)
        ]
    document: dict[str, Any] = {"parts": parts}

    def charged(ranks: Ranks) -> int:
        return sum(step_ns(document, c, rank) for c in COMPONENTS for rank in ranks.of(c))

    def whole(name: tuple[str, Any]) -> float:
        """A model's time with the layers that were not built."""
        each = layer_ns - (ns(("dense", 0)) - ns(name)) / depth
        return ns(name) + grown * max(each, 0.0)

    # Where parts add up to more than the center's time, the smallest ranks are still not promised less than theirs.
    rest = whole(design.center) - charged(design.models[design.center])
    constant = round(max(rest, whole(("smallest", 0))))
    dense_ns = whole(("dense", 0))
    spread_dense = statistics.quantiles(taken["dense", 0], n=4, method="inclusive")
    checks = [
        {
            "share": share,
            "measured_ns": round(ns(("check", share))),
            "spread_ns": spread(("check", share)),
            "predicted_ns": constant + charged(design.models["check", share]),
        }
        for share in _CHECKED
    ]
    return {
        "batch": place[0],
        "context": place[1],
        "phase": place[2],
        "dense_ns": max(round(dense_ns), 1),
        "dense_spread_ns": round((spread_dense[2] - spread_dense[0]) * 1e9),
        "constant_ns": constant,
        **document,
        "checks": checks if grown == 0 else [],
    }
