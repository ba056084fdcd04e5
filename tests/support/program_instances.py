"""Random but realistic programs: many components, ranks as options, losses over many orders of magnitude, several budgets."""

from __future__ import annotations

import numpy as np

from allocator.plan.program.solve import Group, Row

KINDS = ("qk", "ov", "mlp")
_FULL = {"qk": 128, "ov": 128, "mlp": 14336}
_METRICS = ("params", "kv_bytes_per_token", "flops_per_token", "memory")


def _slopes(kind: str, windowed: bool) -> dict[str, int]:
    """What one unit of rank costs in a layer of 8B shape with biases; a layer with a window caches 4096 of 32768 positions."""
    params = {"qk": 4096 * 40 + 40, "ov": 4096 * 40 + 8, "mlp": 3 * 4096}[kind]
    cached = 0 if kind == "mlp" else 16
    attended = 0 if kind == "mlp" else 2 * 32 * (3840 if windowed else 16384)
    positions = 8 * (4096 if windowed else 32768)
    return {
        "params": params,
        "kv_bytes_per_token": cached,
        "flops_per_token": 2 * params + attended,
        "memory": 2 * params + positions * cached,
    }


def _losses(random: np.random.Generator, shares: np.ndarray) -> np.ndarray:
    """Nats/token falling like a power or an exponential of the kept share, jittered, monotone, 0 at the full rank."""
    height = 10.0 ** random.uniform(-6, -1)
    if random.random() < 0.5:
        power = random.uniform(0.5, 3)
        fall = shares**-power - 1
    else:
        rate = random.uniform(3, 12)
        fall = np.exp(-rate * shares) - np.exp(-rate)
    jitter = np.exp(random.normal(0, 0.1, len(shares)))
    losses = np.maximum.accumulate((height * fall * jitter)[::-1])[::-1]
    losses[-1] = 0.0
    return np.asarray(losses)


def instance(
    seed: int, components: int = 240, options: int = 64, budgets: int = 4, *, windows: bool = True
) -> tuple[list[Group], list[Row]]:
    """A program of ``components`` x ``options`` under ``budgets`` limits that all cut something.

    Args:
        windows: half of the layers have a sliding window, so that costs differ from layer to layer.
    """
    random = np.random.default_rng(seed)
    metrics = _METRICS[:budgets]
    groups = []
    for index in range(components):
        layer, kind = divmod(index, 3)
        full = _FULL[KINDS[kind]]
        ranks = [full * (o + 1) // options for o in range(options)]
        slopes = _slopes(KINDS[kind], windows and layer % 2 == 1)
        losses = _losses(random, np.array(ranks) / full)
        costs = tuple(tuple(slopes[metric] * rank for rank in ranks) for metric in metrics)
        groups.append(Group(f"layer {layer} {KINDS[kind]}", tuple(map(float, losses)), costs))
    rows = []
    share = random.uniform(0.55, 0.85)
    for b, metric in enumerate(metrics):
        dense = sum(group.costs[b][-1] for group in groups)
        constant = dense // 8 if metric != "kv_bytes_per_token" else 0
        # The limits are of one size, so that several of them bind at once.
        rows.append(Row(metric, constant + int(share * dense), constant, "units"))
        share *= random.uniform(0.97, 1.03)
    return groups, rows
