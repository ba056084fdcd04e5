"""All solution methods. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from allocator.base.errors import InvalidInput
from allocator.methods.a3 import A3
from allocator.methods.a3_joint import A3Joint
from allocator.methods.a3_latent import A3Latent
from allocator.methods.a3_plus import A3Plus
from allocator.methods.method import Method
from allocator.methods.svd import SVD

PAPER = A3()
"""What methods are compared with."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        PAPER,
        A3Plus(),
        A3Joint(),
        A3Latent(),
        SVD(),
    )
}
"""By name, in the order in which they are listed everywhere."""

DEFAULT_METHOD = A3Plus.name


def method_of(name: str, field: str = "solver") -> Method:
    """The method of a name. Raises InvalidInput, which names the ``field`` that it stands in."""
    if name not in METHODS:
        raise InvalidInput.of(field, name, ", ".join(METHODS), f"{name!r} is unknown; use one of")
    return METHODS[name]
