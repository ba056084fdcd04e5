"""Losses of cuts predicted from gradients: one forward and a few backward passes for all ranks of all components.

Labels y are drawn for every token from the model's own distribution; g is the gradient of -log p(y), summed over a window, at
the output of o_proj or down_proj. A cut changes that output by d, which involves no other layer. To second order

    KL = 1/2 E[ (sum_t g_t . d_t)^2 ]  ~  1/2 E[ sum_t (g_t . d_t)^2 ]      (per window; divided by its tokens)

The tokenwise form leaves out the cross terms of tokens, whose mean is near zero, and has far less variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from allocator.profiling.divergence import finite
from allocator.profiling.logits import row_slices, token_slices
from allocator.profiling.work import body_windows, segment_layers
from solvers.a3.compress import LayerSolution, Part
from solvers.a3.local import Inside, errors, place
from solvers.model.surgery import OpenModel


@dataclass(frozen=True)
class RankLosses:
    """The losses of one component's ranks on all windows."""

    losses: list[list[float]]
    """The loss of each window at every rank, nats/token."""
    projections_rn: torch.Tensor
    """g . d of every rank for each token and draw, float32 on the CPU: what cuts have in common is in their products."""


@dataclass
class _Stream:
    """One batch: its dense states before the layers of one segment, and the gradients at the place reached on the way back.

    States before every layer are half of what a profile holds. So they are kept before the first layer of each segment alone,
    and those inside are made again when the way back reaches it: less than one pass more.
    """

    calls: list[dict[str, Any]]
    firsts: torch.Tensor
    """(segments, B, T, D): before the first layer of each. Allocated at once: states that come one by one lie between what a
    layer frees, which the heap can then not use again.
    """
    states: torch.Tensor
    """(layers of a segment, B, T, D): before each of its layers."""
    last: torch.Tensor
    """(B, T, D): behind the last layer that it ran through."""
    grads: list[torch.Tensor]
    """(B, T, D) for each draw of labels."""

    @classmethod
    def begin(cls, opened: OpenModel, windows: torch.Tensor) -> _Stream:
        hidden, calls = opened.start(windows)
        layers, size = len(opened.source), segment_layers(len(opened.source))
        firsts = hidden.new_empty(-(-layers // size), *hidden.shape)
        return cls(calls, firsts, hidden.new_empty(size, *hidden.shape), hidden, [])

    def forwards(self, opened: OpenModel, layer: int) -> None:
        """Run the next layer; what is before it stays until its segment is left."""
        size = len(self.states)
        if layer % size == 0:
            self.firsts[layer // size] = self.last
        self.states[layer % size] = self.last
        self.last = opened.advance(self.last, self.calls, layer, layer + 1)

    def entered(self, opened: OpenModel, layer: int, on_pass: Callable[[], None]) -> torch.Tensor:
        """The states (B, T, D) before a layer on the way back; those of its segment are made where it is the first reached."""
        size = len(self.states)
        first, spot = layer - layer % size, layer % size
        if spot == size - 1 and layer != len(opened.source) - 1:
            self.states[0] = self.firsts[layer // size]
            for behind in range(1, size):
                hidden = self.states[behind - 1]
                self.states[behind] = opened.advance(hidden, self.calls, first + behind - 1, first + behind)
                on_pass()
        return self.states[spot]


def predicted_losses(
    opened: OpenModel,
    windows: torch.Tensor,
    ranks_by_layer: Mapping[int, Mapping[Part, Sequence[int]]],
    solution: Callable[[int], LayerSolution],
    *,
    labels: int,
    seed: int,
    dtype: torch.dtype,
    on_pass: Callable[[int], None] = lambda passes: None,
    on_rank: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, dict[Part, RankLosses]]]:
    """Predicted losses of the layers in ``ranks_by_layer``, from the last to the first, as each is reached.

    Held are the batches' states before the layers of one segment and before the first of every other, the gradients at one
    place, and one layer's activations.

    Args:
        windows: (W, T) token ids, none of which the solutions were fitted on.
        ranks_by_layer: layer -> component, or one of a latent -> ranks.
        solution: layer -> its solution, called once when it is reached.
        labels: how often a label is drawn for every token.
        seed: of the draws.
        dtype: the checkpoint's type, through which cut weights pass.
        on_pass: called after every batch of every layer, with how many passes that was: one forwards, as many as labels back.
        on_rank: called after every rank of every component.

    Yields:
        layer, and what is predicted of each component.
    """
    generator = torch.Generator(opened.device).manual_seed(seed)
    layers = len(opened.source)
    streams = [_Stream.begin(opened, part) for part in windows.split(body_windows(windows.shape[1]))]
    for layer in range(layers):
        for stream in streams:
            stream.forwards(opened, layer)
            on_pass(1)
    for stream in streams:
        stream.grads = _at_the_end(opened, stream.last, labels, generator)
    for layer in range(layers - 1, min(ranks_by_layer) - 1, -1):
        inside, grads = [], []
        for stream in streams:
            hidden = stream.entered(opened, layer, lambda: on_pass(1))
            activations, gradients = _back(opened, layer, stream, hidden)
            on_pass(labels)
            if layer in ranks_by_layer:
                inside.append(activations)
                grads.append(gradients)
        if layer in ranks_by_layer:
            solved = solution(layer)
            yield (
                layer,
                {
                    component: _losses(opened, layer, inside, grads, solved, component, ranks, dtype, on_rank)
                    for component, ranks in ranks_by_layer[layer].items()
                },
            )


def _at_the_end(
    opened: OpenModel, hidden: torch.Tensor, labels: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Gradients of -log p(y) at the last hidden states (B, T, D), for each draw of y, by parts of the vocabulary's size.

    The gradient at the logits is p - e_y, so all draws share the product of p with the head; y adds one of the head's rows.
    """
    model, family = opened.model, opened.family
    head, cap = model.lm_head, getattr(opened.config, "final_logit_softcapping", None)
    flat = hidden.flatten(0, 1)
    gradients = [torch.empty_like(flat) for _ in range(labels)]
    for part in token_slices(len(flat)):
        states = flat[part].detach().requires_grad_(True)
        with torch.enable_grad():
            normed = family.normed(model, states)
        with torch.no_grad():
            logits = head(normed)
            drawn, slopes = _draw(logits, cap, labels, generator)
            mean = logits @ head.weight
        for number in range(labels):
            row = head.weight[drawn[:, number]]
            if slopes is not None:
                row = row * slopes[:, number, None]
            (gradient,) = torch.autograd.grad(normed, states, mean - row, retain_graph=number + 1 < labels)
            gradients[number][part] = gradient
    return [flat_gradient.view(hidden.shape) for flat_gradient in gradients]


def _draw(
    logits: torch.Tensor, cap: float | None, labels: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels (N, labels) drawn from p, and where logits are capped the cap's slope at each.

    ``logits`` (N, V), not capped yet, hold p times that slope afterwards: a tensor of that size is large.
    """
    drawn, slopes = [], []
    for rows in row_slices(logits):
        own = logits[rows]
        if cap is None:
            p, slope = torch.softmax(own, dim=-1), None
        else:
            bent = torch.tanh(own / cap)
            p, slope = torch.softmax(bent * cap, dim=-1), 1 - bent.square()
        drawn.append(torch.multinomial(p, labels, replacement=True, generator=generator))
        if slope is not None:
            slopes.append(slope.gather(1, drawn[-1]))
            p *= slope
        own.copy_(p)
    return torch.cat(drawn), torch.cat(slopes) if slopes else None


def _back(
    opened: OpenModel, layer: int, stream: _Stream, before: torch.Tensor
) -> tuple[Inside, dict[str, list[torch.Tensor]]]:
    """One batch back through one layer: its inside, and the gradients at its two output projections for each draw.

    ``before`` (B, T, D) is its input, where ``stream.grads`` are then.
    """
    hidden = before.detach().requires_grad_(True)
    with torch.enable_grad():
        inside = Inside.of(opened, layer, hidden, stream.calls[layer])
    caught = inside.caught
    places: list[str] = [name for name in ("attention", "mlp") if name in caught]
    by_projection: dict[str, list[torch.Tensor]] = {name: [] for name in places}
    inputs = [hidden, *(caught[name] for name in places)]
    for number, gradient in enumerate(stream.grads):
        last = number + 1 == len(stream.grads)
        before, *at_projections = torch.autograd.grad(caught["out"], inputs, gradient, retain_graph=not last)
        stream.grads[number] = before
        for name, tensor in zip(places, at_projections, strict=True):
            by_projection[name].append(tensor)
    args, kwargs = caught["attention_call"]
    caught["attention_call"] = (
        tuple(tensor.detach() if isinstance(tensor, torch.Tensor) else tensor for tensor in args),
        {
            name: tensor.detach() if isinstance(tensor, torch.Tensor) else tensor
            for name, tensor in kwargs.items()
        },
    )
    for name in ("in", "z", "x", "attention", "mlp"):  # lets the graph go
        if name in caught:
            caught[name] = caught[name].detach()
    caught.pop("out")
    return inside, by_projection


def _losses(
    opened: OpenModel,
    layer: int,
    inside: Sequence[Inside],
    grads: Sequence[dict[str, list[torch.Tensor]]],
    solution: LayerSolution,
    component: Part,
    ranks: Sequence[int],
    dtype: torch.dtype,
    on_rank: Callable[[], None],
) -> RankLosses:
    """1/2 E[(g . d)^2] of every rank, window by window, and g . d itself."""
    losses, rows_rn = [], []
    for rank in ranks:
        values: list[float] = []
        flat = []
        parts = errors(opened, layer, inside, solution, component, rank, dtype)
        for part, gradients in zip(parts, grads, strict=True):
            at_output = gradients[place(component)]
            products = torch.stack([torch.linalg.vecdot(g, part) for g in at_output])  # (S, B, T)
            values += finite(products.double().square().mean((0, 2)) / 2).tolist()
            flat.append(products.flatten())
        losses.append(values)
        rows_rn.append(torch.cat(flat).float().cpu())
        on_rank()
    return RankLosses(losses, torch.stack(rows_rn))
