"""`InvalidInput.of`: one field, what was found and what is allowed, each written once."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.base.errors import BudgetSyntax, InvalidInput


@pytest.mark.parametrize(
    ("said", "detail", "found"),
    [
        ((("scope", "root", "read or submit"), {}), "scope: 'root' is not read or submit", "root"),
        ((("layer", 7, "0 to 5"), {}), "layer: 7 is not 0 to 5", "7"),
        ((("out", "a.png", ".svg"), {"at": "--out"}), "--out: 'a.png' is not .svg", "a.png"),
        ((("a", "nothing", "a digest", "choose"), {}), "a: choose a digest", "nothing"),
        ((("bits", "3 {x} %s", "8", "take"), {"at": "--bits"}), "--bits: take 8", "3 {x} %s"),
    ],
)
def test_a_refusal_says_field_found_and_allowed(said: Any, detail: str, found: str) -> None:
    arguments, named = said
    error = InvalidInput.of(*arguments, **named)
    assert error.detail == str(error) == detail
    (field,) = error.fields
    assert (field.field, field.found, field.allowed) == (arguments[0], found, arguments[2])


def test_it_is_of_the_class_that_it_was_asked_of() -> None:
    error = BudgetSyntax.of("budget", "x", "metric=value")
    assert type(error) is BudgetSyntax
    assert error.document()["type"] == "budget_syntax"
