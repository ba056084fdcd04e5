"""Ratios and ranks that meet a parameter target from below."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.peers.blocks import SHRINKING_BIAS, Block, Work, bias_count, dense_count


def largest_ratio(count: Callable[[float], int], target: float) -> float:
    """The largest ratio in [0, 1] with ``count(ratio) <= target``, count being a non-decreasing staircase.

    Raises:
        ValueError: not even ratio 0 fits.
    """
    if count(1.0) <= target:
        return 1.0
    low, high = 0.0, 1.0
    if count(low) > target:
        raise ValueError(
            f"the least this method can store is {count(low)} parameters, the target is {target:.0f}"
        )
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) <= target else (low, middle)
    return low


def factor_rank(ratio: float, out: int, inner: int) -> int | None:
    """k = floor(ratio m n / (m + n)), at least 1 (SVD-LLM, ASVD); None where the matrix itself is no larger."""
    rank = max(1, int(ratio * out * inner / (out + inner)))
    return None if ratio >= 1 or rank * (out + inner) >= out * inner else rank


def factor_ranks(work: Work, keep: float) -> dict[tuple[int, str], int | None]:
    """Ranks of all matrices at the one ratio that stores at most ``keep`` of the dense block parameters.

    What flooring leaves goes, one rank each, to the matrices that flooring cut most, as far as the target allows.
    """
    shapes = {(index, name): slot.weight.shape for index, name, slot in work.matrices()}
    biases = sum(bias_count(slot, name) for _, name, slot in work.matrices())
    limit = target(work, keep) - biases

    def ranks(ratio: float) -> dict[tuple[int, str], int | None]:
        return {key: factor_rank(ratio, *shape) for key, shape in shapes.items()}

    def count(result: dict[tuple[int, str], int | None]) -> int:
        return sum(factors_count(shape, result[key]) for key, shape in shapes.items())

    ratio = largest_ratio(lambda ratio: count(ranks(ratio)), limit)
    result = ranks(ratio)

    def cut(key: tuple[int, str]) -> float:
        out, inner = shapes[key]
        return ratio * out * inner / (out + inner) % 1

    total = count(result)
    for key in sorted(result, key=cut, reverse=True):
        rank, (out, inner) = result[key], shapes[key]
        if rank is not None and total + out + inner <= limit and (rank + 1) * (out + inner) < out * inner:
            result[key] = rank + 1
            total += out + inner
    return result


def factors_count(shape: tuple[int, ...], rank: int | None) -> int:
    """Numbers in two factors of a matrix, or in the matrix."""
    out, inner = shape
    return out * inner if rank is None else rank * (out + inner)


def target(work: Work, keep: float) -> float:
    """Parameters that may be stored."""
    return keep * sum(dense_count(slot, name) for _, name, slot in work.matrices())


def structure(block: Block, ratio: float) -> tuple[int, int, int]:
    """Kept dimensions (QK, OV, MLP) of a block at a ratio, each at least one unit."""
    unit = len(block.units()[0]) if len({len(unit) for unit in block.units()}) == 1 else 1
    neurons = block.slots["up"].weight.shape[0]
    smallest = max(len(unit) for unit in block.units())
    qk = max(smallest, int(ratio * block.head_dim + 1e-9) // unit * unit)
    return qk, max(1, int(ratio * block.head_dim + 1e-9)), max(1, int(ratio * neurons + 1e-9))


def structure_count(block: Block, ranks: tuple[int, int, int]) -> int:
    """Block parameters of a block at these dimensions."""
    per_head = dict(zip(("qk", "ov", "mlp"), ranks, strict=True))
    total = 0
    for name, slot in block.slots.items():
        out, inner = slot.weight.shape
        with_bias = int(slot.bias is not None and name in SHRINKING_BIAS)
        if name in ("gate", "up"):
            total += per_head["mlp"] * (inner + with_bias)
        elif name == "down":
            total += per_head["mlp"] * out
        elif name == "o":
            total += per_head["ov"] * out * block.heads
        else:
            heads = block.heads if name == "q" else block.kv_heads
            total += per_head["ov" if name == "v" else "qk"] * heads * (inner + with_bias)
    return total


def uniform_structure(work: Work, keep: float, *, whole_qk: bool = False) -> list[tuple[int, int, int]]:
    """The same ratio for every component of every layer, or for all but QK, the largest that fits; see ``filled``."""

    def at(ratio: float) -> list[tuple[int, int, int]]:
        structures = [(block, structure(block, ratio)) for block in work.blocks]
        return [(block.head_dim if whole_qk else qk, ov, mlp) for block, (qk, ov, mlp) in structures]

    def count(ratio: float) -> int:
        return sum(map(structure_count, work.blocks, at(ratio)))

    return filled(work, at(largest_ratio(count, target(work, keep))), keep)


def filled(work: Work, ranks: list[tuple[int, int, int]], keep: float) -> list[tuple[int, int, int]]:
    """One more neuron for each block, first to last, as long as that fits: flooring left less than one for all."""
    total, limit = sum(map(structure_count, work.blocks, ranks)), target(work, keep)
    result = []
    for block, (qk, ov, neurons) in zip(work.blocks, ranks, strict=True):
        wider = (qk, ov, neurons + 1)
        cost = structure_count(block, wider) - structure_count(block, (qk, ov, neurons))
        fits = total + cost <= limit and neurons < block.slots["up"].weight.shape[0]
        total += cost if fits else 0
        result.append(wider if fits else (qk, ov, neurons))
    return result
