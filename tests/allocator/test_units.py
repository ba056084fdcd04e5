"""Numbers as pages and pictures show them."""

from __future__ import annotations

import pytest

from allocator.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.006874, "0.00687"),
        (0.0001, "0.000100"),
        (0.00001234, "1.23e-5"),
        (-0.25, "-0.250"),
        (12.345, "12.3"),
        (999.4, "999"),
        (12345.6, "12346"),
    ],
)
def test_losses_have_three_digits(value: float | None, text: str) -> None:
    assert units.nats(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (9999, "", "9,999"),
        (10_000, "", "10.0 k"),
        (884_736, "parameters", "885 k"),
        (5_883_392, "FLOPs", "5.88 M"),
        (1023, "bytes", "1023 B"),
        (1152, "bytes", "1.12 KiB"),
        (24 * 2**30, "bytes", "24.0 GiB"),
    ],
)
def test_amounts_have_the_prefixes_of_their_unit(value: int, unit: str, text: str) -> None:
    assert units.amount(value, unit) == text


def test_shares_are_percents() -> None:
    assert [units.percent(share) for share in (0.75, 0.075, 1.0)] == ["75 %", "7.5 %", "100 %"]
