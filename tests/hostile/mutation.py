"""Changes of valid files: mutations of their structure get further than random bytes."""

from __future__ import annotations

import copy
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
"""Per test; ``make fuzz`` asks for more."""

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)

_NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    10**30,
    1e308,
    5e-324,
    -0.0,
    0.5,
    float("nan"),
    float("inf"),
]
_TEXTS = [
    *(
        "",
        " ",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "\0",
        "\x1b[2J",
        "\n",
        "\ud800",
        "x" * 3000,
        "9" * 5000,
        "1e999999",
    ),
    *("__metadata__", "F64", "BF16", "llama", "model.layers.9.x", "local:x", "params=0.5", "{}", "％"),
]
odd = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(_NUMBERS)
    | st.sampled_from(_TEXTS)
    | st.integers()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_TEXTS), inner, max_size=3),
    max_leaves=6,
)


def changed(data: st.DataObject, document: Any) -> Any:
    """A copy with one to four nodes replaced, removed, doubled, renamed or exchanged."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 4))):
        _change_one(data, document)
    return document


def _change_one(data: st.DataObject, document: Any) -> None:
    spot = document
    while True:
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(spot[key], dict | list) and spot[key]
        if not deeper or data.draw(st.integers(0, 3)) == 0:
            break
        spot = spot[key]
    kind = data.draw(st.sampled_from(["replace", "replace", "remove", "double", "exchange"]))
    other = data.draw(st.sampled_from(keys))
    if kind == "remove":
        del spot[key]
    elif kind == "exchange":
        spot[key], spot[other] = spot[other], spot[key]
    elif kind == "double" and isinstance(spot, list):
        spot.insert(data.draw(st.integers(0, len(spot))), copy.deepcopy(spot[key]))
    elif kind == "double":
        spot[data.draw(st.sampled_from(_TEXTS))] = copy.deepcopy(spot[key])
    else:
        spot[key] = data.draw(odd)


def bytes_changed(data: st.DataObject, content: bytes) -> bytes:
    """A copy with a few bytes flipped, a piece cut out, put in or doubled."""
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, max(0, len(found) - 1)))
        end = min(len(found), start + data.draw(st.sampled_from([1, 1, 2, 8, 100, len(found)])))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if kind == "flip" and found:
            found[start] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del found[start:end]
        elif kind == "insert":
            found[start:start] = data.draw(st.binary(max_size=16))
        else:
            found[start:start] = found[start:end]
    return bytes(found)
