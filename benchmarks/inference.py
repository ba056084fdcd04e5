"""Prefill and decode of compact checkpoints beside the dense model, and what the FLOPs promise: only ratios of one run.

Weights are random: time does not depend on them. All models of a shape take turns (dense, cut, cut, ..., then backwards), so
that a change of the machine's load falls on all of them; a ratio compares times of the same turn.

    python -m benchmarks.inference [--device cpu|cuda] [--shapes small,gpt2] [--seconds 8] [--busy]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GPT2LMHeadModel, LlamaForCausalLM

from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from benchmarks.inference_shapes import CUTS, EAGER_CUTS, SHAPES, VOCAB, ModelShape
from solvers.families import FAMILIES
from solvers.modeling_rankalloc import COMPACT
from tests.support.models import given_cache

_STEPS = 4
"""Decoded tokens per turn."""
_FEWEST_TURNS = 5
_RESTLESS = 0.1
"""Quartile distance of the dense times over their median from which a row is not to be trusted."""


@dataclass
class Contestant:
    """A model that takes turns with others."""

    model: Any
    ids: torch.Tensor
    cache: Any = None

    def prefill(self) -> None:
        self.cache = DynamicCache(config=self.model.config)
        self.model(self.ids, use_cache=True, **given_cache(self.model, self.cache))

    def decode(self) -> None:
        for _ in range(_STEPS):
            self.model(self.ids[:, :1], use_cache=True, **given_cache(self.model, self.cache))

    def rewind(self) -> None:
        """Forget what ``decode`` added: every turn reads as many positions."""
        self.cache.crop(-_STEPS)

    def kv_bytes(self) -> int:
        """Bytes of the cache's tensors in memory."""
        tensors = (tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values))
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@dataclass(frozen=True)
class Stopwatch:
    """Wall time of work on a device, or with ``busy`` the processor time of this process."""

    device: torch.device
    busy: bool = False

    def __call__(self, work: Callable[[], None]) -> float:
        clock = time.process_time if self.busy else time.perf_counter
        self._wait()
        started = clock()
        work()
        self._wait()
        return clock() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _turns(
    players: dict[str, Contestant], phase: str, watch: Stopwatch, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every turn, and the bytes of each cache at its fullest."""
    times: dict[str, list[float]] = {name: [] for name in players}
    cache_bytes = {}
    order = list(players)
    ends = time.perf_counter() + seconds
    for turn in range(-1, 10_000):  # the first warms up
        for name in order:
            player = players[name]
            spent = watch(getattr(player, phase))
            cache_bytes[name] = player.kv_bytes()
            if phase == "decode":
                player.rewind()
            if turn >= 0:
                times[name].append(spent)
        order.reverse()
        if turn + 1 >= _FEWEST_TURNS and time.perf_counter() > ends:
            break
    return times, cache_bytes


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def geometry_of(model: Any, family: str) -> Geometry:
    """The integers that costs are counted in."""
    parameters = list(model.parameters())
    return Geometry(
        **FAMILIES[family].geometry(model.config),
        total_params=sum(parameter.numel() for parameter in parameters),
        bytes_per_param=parameters[0].element_size(),
    )


def build(shape: ModelShape, ranks: Ranks | None, device: torch.device, dtype: torch.dtype) -> Any:
    """The stock model, or the compact one of these ranks, with random weights."""
    config = shape.config()
    kind = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel}[shape.family]
    if ranks is not None:
        config_class, kind = COMPACT[shape.family]
        options = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
        sizes = {f"{component}_ranks": list(ranks.of(component)) for component in COMPONENTS}
        config = config_class(**options, **sizes)
    with device:
        return kind(config).to(dtype).eval()


def _promised(costs: CostModel, ranks: Ranks, shape: ModelShape, phase: str) -> float:
    """FLOPs per token of the dense model over those of the cut one, at the context that is measured."""
    context = shape.prompt if phase == "prefill" else shape.prompt + _STEPS // 2
    metric = Metric("flops_per_token", context=context, phase=phase)
    return costs.total(metric, Ranks.dense(costs.geometry)) / costs.total(metric, ranks)


def _compare(
    players: dict[str, Contestant],
    ranks: dict[str, Ranks],
    shape: ModelShape,
    costs: CostModel,
    watch: Stopwatch,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for each cut among the players."""
    rows: dict[str, dict[str, Any]] = {name: {"cut": name} for name in players if name != "dense"}
    for phase, tokens in (("prefill", shape.prompt), ("decode", _STEPS)):
        times, cache_bytes = _turns(players, phase, watch, seconds)
        low, dense, high = _quartiles(times["dense"])
        for name, row in rows.items():
            ratios = [dense_s / cut_s for dense_s, cut_s in zip(times["dense"], times[name], strict=True)]
            low_quartile, middle, high_quartile = _quartiles(ratios)
            promised = _promised(costs, ranks[name], shape, phase)
            row[phase] = {
                "tokens_per_s": tokens / statistics.median(times[name]),
                "dense_tokens_per_s": tokens / dense,
                "speed_up": middle,
                "quartiles": [low_quartile, high_quartile],
                "promised": promised,
                "share": middle / promised,
                "dense_spread": (high - low) / dense,
                "turns": len(ratios),
            }
            row |= {"kv_bytes": cache_bytes[name], "dense_kv_bytes": cache_bytes["dense"]}
            row |= {"kv_tokens": shape.prompt + (_STEPS if phase == "decode" else 0)}
    for name, row in rows.items():
        row["ranks"] = [ranks[name].of(component)[0] for component in COMPONENTS]
    return list(rows.values())


@torch.no_grad()
def run(
    device: str = "cpu", shapes: Sequence[ModelShape] = SHAPES, *, seconds: float = 8.0, busy: bool = False
) -> list[dict[str, Any]]:
    """All cuts of every shape, with SDPA and eager attention; float32 on a CPU, bfloat16 elsewhere.

    Args:
        seconds: how long the models of a shape take turns in each phase with each attention; at least five turns.
        busy: processor time instead of wall time, for a CPU that others use; only with one thread is it as long.

    Raises:
        ValueError: ``busy`` with more than one thread, or on another device than the CPU.
    """
    if busy and (device != "cpu" or torch.get_num_threads() > 1):
        raise ValueError(
            f"busy: found device {device!r}, {torch.get_num_threads()} threads; works on a CPU with one"
        )
    place = torch.device(device)
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    rows = []
    for shape in shapes:
        torch.manual_seed(0)
        ids = torch.randint(VOCAB, (1, shape.prompt)).to(place)
        dense = build(shape, None, place, dtype)
        costs = CostModel(geometry_of(dense, shape.family))
        ranks = {name: cut(costs.geometry) for name, cut in CUTS.items()}
        models = {"dense": dense} | {
            name: build(shape, cut_ranks, place, dtype) for name, cut_ranks in ranks.items()
        }
        for attention, cuts in (("sdpa", tuple(CUTS)), ("eager", EAGER_CUTS)):
            players = {name: Contestant(models[name], ids) for name in ("dense", *cuts)}
            for player in players.values():
                player.model.set_attn_implementation(attention)
            compared = _compare(players, ranks, shape, costs, Stopwatch(place, busy), seconds)
            rows += [
                {"shape": shape.name, "attention": attention, "device": device} | row for row in compared
            ]
        _warn(rows, shape)
    return rows


def _warn(rows: list[dict[str, Any]], shape: ModelShape) -> None:
    mine = [row for row in rows if row["shape"] == shape.name]
    for attention, phase in ((a, p) for a in ("sdpa", "eager") for p in ("prefill", "decode")):
        spread = next(row[phase]["dense_spread"] for row in mine if row["attention"] == attention)
        if spread > _RESTLESS:
            sys.stderr.write(
                f"{shape.name}, {attention} {phase}: the dense times' quartiles lie {spread:.0%} apart; is the machine busy?\n"
            )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; ``~`` marks times of a busy machine."""

    def cell(phase: dict[str, Any]) -> str:
        low, high = phase["quartiles"]
        restless = "~" if phase["dense_spread"] > _RESTLESS else ""
        return (
            f"{restless}{phase['speed_up']:.2f} ({low:.2f}-{high:.2f}) "
            f"| {phase['promised']:.2f} | {phase['share']:.2f}"
        )

    lines = [
        "| shape | attention | removed | ranks QK / OV / MLP "
        "| prefill (quartiles) | promised | share | decode (quartiles) | promised | share | KV bytes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['shape']} | {row['attention']} | {row['cut']} | {' / '.join(map(str, row['ranks']))} "
        f"| {cell(row['prefill'])} | {cell(row['decode'])} | {row['kv_bytes'] / row['dense_kv_bytes']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shapes", default=",".join(shape.name for shape in SHAPES), help="names, by commas")
    parser.add_argument("--seconds", type=float, default=8.0, help="per shape, attention and phase")
    parser.add_argument("--busy", action="store_true", help="one thread, processor time: others use the CPU")
    options = parser.parse_args()
    named = options.shapes.split(",")
    shapes = [shape for shape in SHAPES if shape.name in named]
    if len(shapes) < len(named):
        parser.error(f"--shapes: {options.shapes!r}; there are {', '.join(shape.name for shape in SHAPES)}")
    if options.busy:
        torch.set_num_threads(1)
    sys.stdout.write(table(run(options.device, shapes, seconds=options.seconds, busy=options.busy)) + "\n")


if __name__ == "__main__":
    main()
