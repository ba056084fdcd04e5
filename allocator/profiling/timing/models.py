"""Compact models that are built to be timed: the shape of a source at given ranks, with weights that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from allocator.base.errors import InvalidInput
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.latency import Workload
from allocator.plan.model.ranks import Ranks
from solvers.checkpoints.reading import Inspected, model_config
from solvers.errors import UnreadableModelError
from solvers.families import FAMILIES
from solvers.folder import called

LAYERS = 4
POINTS = 9
ROUNDS = 9
TURN_S = 0.03
"""How long a model's turn lasts, as far as a cap on its passes allows."""
MOST_TOKENS = 10**7
"""Of one pass: batch x context."""
_ALIGNED = 64
"""Every weight begins at a multiple of so many elements, as an allocator would place it."""


class Pool:
    """One block of random numbers that all timed models take their weights from, for they run one after the other.

    Forty models of a real shape would not fit into memory by themselves. A time hangs on sizes and not on values, and
    inside a model no two weights overlap, so caches see what they would see otherwise.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._block = torch.empty(0, dtype=dtype, device=device)

    def lend(self, model: Any) -> None:
        """Put views of the block in place of all parameters; tied ones stay tied."""
        needed = sum(_room(parameter) for parameter in model.parameters())
        if needed > self._block.numel():
            self._block = torch.empty(needed, dtype=self._block.dtype, device=self._block.device)
            self._block.normal_(std=0.02)
        spot = 0
        lent: dict[int, torch.nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if id(parameter) not in lent:
                    view = self._block[spot : spot + parameter.numel()].view(parameter.shape)
                    lent[id(parameter)] = torch.nn.Parameter(view, requires_grad=False)
                    spot += _room(parameter)
                setattr(module, name, lent[id(parameter)])


def _room(parameter: torch.Tensor) -> int:
    return -(-parameter.numel() // _ALIGNED) * _ALIGNED


@dataclass(frozen=True)
class Setup:
    """The setup of a measurement: the source's config, its geometry, the type of the weights, and how thoroughly."""

    config: Any
    geometry: Geometry
    dtype: torch.dtype
    device: torch.device
    layers: int = LAYERS
    points: int = POINTS
    rounds: int = ROUNDS
    turn_s: float = TURN_S
    clock: Callable[[], float] = time.perf_counter
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool", Pool(self.dtype, self.device))

    @property
    def depth(self) -> int:
        """Layers that are built: at least two, since the others are taken to be like the second half of them."""
        return min(max(self.layers, 2), self.geometry.layers)

    def check(self, places: Sequence[Workload]) -> None:
        """Raises InvalidInput where the model has fewer positions, or a pass has more tokens than will be tried."""
        most = self.geometry.max_positions
        for batch, context, _ in places:
            if context > most or batch * context > MOST_TOKENS:
                allowed = f"at most {most}, the model's own; and batch x context at most {MOST_TOKENS}"
                clause = f"{context} with batch {batch} is not"
                raise InvalidInput.of("context", context, allowed, clause, at="--context")

    def at(self, depth: int, ranks: Ranks) -> Any:
        """A compact model of so many layers, its weights views of the pool."""
        family = FAMILIES[self.config.model_type]
        config_class, _ = family.compact
        plain = {
            name: value[:depth] if name == "layer_types" and value else value
            for name, value in self.config.to_dict().items()
            if name not in ("model_type", "architectures", "auto_map", "dtype")
        }
        sizes = {f"{c}_ranks": list(ranks.of(c)[:depth]) for c in COMPONENTS}
        if pairs := family.rotary_pairs(self.config):
            sizes["qk_pairs"] = [min(rank // 2, pairs) for rank in ranks.qk[:depth]]
        count = (
            "n_layer" if "n_layer" in plain else "n_layers" if "n_layers" in plain else "num_hidden_layers"
        )
        config = config_class(**{**plain, count: depth}, **sizes)
        # Memory of weights that nothing has written is only promised by the system: a whole model costs nothing here.
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(
                config, dtype=self.dtype, attn_implementation=family.attention_implementation
            )
        model.tie_weights()
        self.pool.lend(model)
        return model.to(self.device).eval()


def geometry_without_weights(inspected: Inspected, dtype: torch.dtype) -> tuple[Any, Geometry]:
    """Config and geometry of a model folder; no weights are read.

    Raises:
        UnreadableModelError: transformers makes no model of the config.
    """
    try:
        config = model_config(inspected.folder)
        config._attn_implementation = FAMILIES[inspected.model_type].attention_implementation
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers raises anything for a config it does not like
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnreadableModelError(
            f"{called(inspected.folder)}: config.json cannot be used: {reason}"
        ) from None
    geometry = Geometry(
        **FAMILIES[inspected.model_type].geometry(config),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        bytes_per_param=dtype.itemsize,
    )
    return config, geometry
