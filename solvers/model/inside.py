"""One layer's forward pass with a look inside: what enters and leaves its output projections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from solvers.model.surgery import OpenModel


class _Stopped(Exception):
    """Ends a layer's forward pass as soon as what it was run for is there."""


def run_layer(
    opened: OpenModel, index: int, hidden: torch.Tensor, call: dict[str, Any], *, stop: str | None = None
) -> dict[str, Any]:
    """Run a layer on (B, T, D) and catch ``in``, ``z`` (input of o_proj), ``attention`` (its output), ``x`` (input of
    down_proj), ``mlp`` (its output), ``out``, and ``attention_call``: the attention module's keyword arguments.

    Gradients are recorded where the caller has them on. A layer whose MLP is left alone has no ``x`` and no ``mlp``.

    Args:
        stop: end the pass as soon as ``z`` or ``x`` is there.
    """
    caught: dict[str, Any] = {"in": hidden}
    with _hooks(opened, index, caught, stop), suppress(_Stopped):
        caught["out"] = opened.layer(index)(hidden, **call)
    return caught


@contextmanager
def attended(opened: OpenModel, index: int, z: torch.Tensor) -> Iterator[None]:
    """Within it the layer's attention puts out what its ``o_proj`` makes of ``z`` (B, T, H r), whatever it is called with.

    For runs that differ in o_proj or behind it from the one that ``z`` was caught in: nothing is attended to again.
    """
    attention = opened.attention(index)
    attention.forward = lambda *args, **kwargs: (attention.o_proj(z), None)
    try:
        yield
    finally:
        del attention.forward


@contextmanager
def _hooks(opened: OpenModel, index: int, caught: dict[str, Any], stop: str | None) -> Iterator[None]:
    def catch_input(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            caught[name] = args[0]
            if stop == name:
                raise _Stopped

        return hook

    def catch_output(name: str) -> Any:
        return lambda module, args, output: caught.__setitem__(name, output)

    def catch_call(module: Any, args: Any, kwargs: Any) -> None:
        caught["attention_call"] = (args, kwargs)

    attention = opened.attention(index)
    projections = {("z", "attention"): attention.o_proj}
    if opened.source[index].mlp_rank:
        projections["x", "mlp"] = opened.layer(index).mlp.down_proj
    handles = [attention.register_forward_pre_hook(catch_call, with_kwargs=True)]
    for (inward, outward), projection in projections.items():
        handles.append(projection.register_forward_pre_hook(catch_input(inward)))
        handles.append(projection.register_forward_hook(catch_output(outward)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
