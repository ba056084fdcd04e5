"""Amounts as people write them: ``0.8``, ``80%``, ``0.8x``, ``200_000``, ``1.5M``, ``24GB``, ``24GiB``, ``12ms``. Exact.

Decimal prefixes are powers of 1000 (``K M G T``, of bytes also ``KB MB GB TB``), binary ones of 1024 (``KiB MiB GiB TiB``).
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from allocator.plan.metrics.kind import BYTES, FLOPS, NANOSECONDS, PARAMETERS

_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_COUNTS = {"": 1, **_DECIMAL, **_BINARY}
_OF_UNIT: dict[str, dict[str, int]] = {
    BYTES: {**_COUNTS, "B": 1, **{f"{prefix}B": factor for prefix, factor in _DECIMAL.items()}},
    PARAMETERS: {**_COUNTS, "B": 10**9},
    FLOPS: {**_COUNTS, "FLOPs": 1, **{f"{prefix}FLOPs": factor for prefix, factor in _DECIMAL.items()}},
    NANOSECONDS: {"": 1, "ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9},
}
"""Unit -> suffix -> factor. A billion parameters are ``1B`` to everybody, 1 GB of them to nobody."""
_SHARES = {"%": Fraction(1, 100), "x": Fraction(1)}
_NUMBER = r"(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_AMOUNT = re.compile(rf"(?P<number>{_NUMBER}) ?(?P<suffix>[A-Za-zµμ%]*)")
_COUNT = re.compile(rf"(?P<number>{_NUMBER})(?P<suffix>k|K|Ki|M|Mi)?")
_BITS = re.compile(r"[KMGT]i?b")


class NotAnAmount(ValueError):
    """A text that is no amount. Its message is a phrase; empty where only what would work is to be said."""


def _folded(suffixes: dict[str, int]) -> dict[str, int]:
    return {suffix.casefold(): factor for suffix, factor in suffixes.items()}


def read_amount(text: str, unit: str) -> tuple[Fraction, bool]:
    """An amount in ``unit`` (bytes, parameters, FLOPs, ns), or a share of the dense model's in (0, 1] and True.

    Raises:
        NotAnAmount: it is neither, or a share beyond all of it.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise NotAnAmount("")
    number, suffix = Fraction(Decimal(match["number"].replace("_", ""))), match["suffix"]
    if suffix.lower() in _SHARES or (not suffix and number <= 1):
        share = number * _SHARES.get(suffix.lower(), Fraction(1))
        if share > 1:
            raise NotAnAmount(f"{text} is more than the dense model")
        if share == 0:
            raise NotAnAmount("")
        return share, True
    if unit == BYTES and _BITS.fullmatch(suffix):
        raise NotAnAmount(f"{suffix} reads as bits, bytes are {suffix[:-1]}B")
    suffixes = _folded(_OF_UNIT[unit])
    if suffix.casefold() not in suffixes:
        allowed = ", ".join([*filter(None, _OF_UNIT[unit]), *_SHARES])
        raise NotAnAmount(f"{suffix!r} is no suffix of {unit}, which are {allowed}")
    amount = number * suffixes[suffix.casefold()]
    if amount < 2:
        raise NotAnAmount(f"{text} lies between a share of the dense model and an amount")
    return amount, False


def read_count(text: str, *, binary: bool) -> int | None:
    """A whole number, ``8`` or ``200_000``; with ``binary`` also ``128k`` (131,072) and ``1M`` (1,048,576). Else None."""
    match = _COUNT.fullmatch(text)
    if match is None or (match["suffix"] and not binary):
        return None
    factor = {"": 1, "k": 2**10, "m": 2**20}[(match["suffix"] or "")[:1].lower()]
    amount = Fraction(Decimal(match["number"].replace("_", ""))) * factor
    return int(amount) if amount.denominator == 1 else None


def in_both(amount: int, unit: str) -> str:
    """Bytes with decimal and with binary prefixes, which people confuse; nanoseconds in longer times. Else empty."""
    if unit == NANOSECONDS:
        return _largest(amount, {name: _OF_UNIT[NANOSECONDS][name] for name in ("us", "ms", "s")})
    if unit != BYTES or amount < 2**10:
        return ""
    decimal = {f"{prefix}B": factor for prefix, factor in _DECIMAL.items()}
    return f"{_largest(amount, decimal)} = {_largest(amount, _BINARY)}"


def _largest(amount: int, factors: dict[str, int]) -> str:
    """The amount in the largest of these that it has one of; empty where it has none."""
    fitting = [name for name, factor in factors.items() if amount >= factor]
    return f"{amount / factors[fitting[-1]]:,.6g} {fitting[-1]}" if fitting else ""
