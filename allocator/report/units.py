"""Numbers and times as pages and pictures show them."""

from __future__ import annotations

from datetime import datetime

from allocator.plan.metrics.kind import BYTES

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G", "T", "P")
_EXACT_BELOW = 10_000
_WHOLE_FROM = 999.5
"""Where three digits are a whole number."""
NOTHING = "–"


def nats(value: float | None) -> str:
    """A loss with three digits: 0.00687, 1.23e-5."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) >= _WHOLE_FROM:
        return f"{value:.0f}"
    if abs(value) >= 0.0001:
        return f"{value:#.3g}".rstrip(".")
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits}e{int(exponent)}"


def signed(value: float | None) -> str:
    """A change of a loss, with its sign."""
    return f"+{nats(value)}" if value is not None and value > 0 else nats(value)


def amount(value: float, unit: str = "") -> str:
    """Bytes in KiB, MiB, ...; losses with three digits; counts from 10,000 on with k, M, G."""
    if unit == "nats/token":
        return nats(value)
    if unit == BYTES:
        return _scaled(value, 1024, _BINARY)
    if abs(value) < _EXACT_BELOW:
        return f"{value:,.0f}"
    return _scaled(value, 1000, _DECIMAL)


def change(value: float, unit: str = "") -> str:
    """An amount with its sign."""
    return f"+{amount(value, unit)}" if value > 0 else amount(value, unit)


def percent(share: float) -> str:
    """A fraction as 75 % or 7.5 %."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def when(value: str | datetime | None) -> str:
    """To the second, UTC."""
    if value is None:
        return NOTHING
    text = value.isoformat() if isinstance(value, datetime) else value
    return text[:19].replace("T", " ")


def short(text: str, length: int = 12) -> str:
    """The beginning of a hash."""
    return text[:length]


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    size, power = float(value), 0
    while abs(size) >= base and power < len(names) - 1:
        size, power = size / base, power + 1
    decimals = 0 if power == 0 or abs(size) >= 100 else 1 if abs(size) >= 10 else 2
    return f"{size:.{decimals}f} {names[power]}".strip()
