"""The state of a healing at a check, from which one that was cut short goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_FACTS, _TENSORS = FILES = ("facts.json", "tensors.safetensors")
"""The files that `HealState.save` writes."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Check:
    """One measurement on the windows by which a healing is judged."""

    step: int
    kl_nats: float
    """KL(dense ‖ compressed), nats/token."""


@dataclass(frozen=True)
class HealState:
    """At a check: the weights in training, AdamW's moments of them, and the weights that would be delivered now."""

    seconds: float
    checks: tuple[Check, ...]
    """Those so far, this one last."""
    kept_step: int
    kept_weights: Sequence[torch.Tensor]
    """On the CPU."""
    weights: Sequence[torch.Tensor]
    moments: Sequence[Mapping[str, torch.Tensor]]
    """By tensor of ``weights``; none before the first step."""

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.checks[-1].step

    @property
    def best(self) -> Check:
        """The check of the weights that are kept."""
        return next(check for check in self.checks if check.step == self.kept_step)

    def after(
        self,
        check: Check,
        seconds: float,
        moments: Sequence[Mapping[str, torch.Tensor]],
        kept_weights: Sequence[torch.Tensor] | None,
    ) -> HealState:
        """The state with ``check`` added; ``kept_weights``: the ones to deliver from now on."""
        state = replace(self, seconds=seconds, checks=(*self.checks, check), moments=moments)
        return (
            state if kept_weights is None else replace(state, kept_weights=kept_weights, kept_step=check.step)
        )

    def save(self, folder: Path) -> None:
        """Write `FILES` into a folder: three times the trained weights, four times where the kept ones are others."""
        tensors = {f"weights.{i}": tensor.detach() for i, tensor in enumerate(self.weights)}
        for i, moments in enumerate(self.moments):
            tensors |= {f"{name}.{i}": moments[name] for name in _MOMENTS}
        if self.kept_step != self.step:
            tensors |= {f"kept.{i}": tensor for i, tensor in enumerate(self.kept_weights)}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / _TENSORS)
        facts = {
            "seconds": self.seconds,
            "checks": [asdict(check) for check in self.checks],
            "kept_step": self.kept_step,
        }
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> HealState:
        """The state that `save` wrote. Raises OSError, KeyError or ValueError where it is not that."""
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
        count = sum(name.startswith("weights.") for name in tensors)
        weights = [tensors[f"weights.{i}"] for i in range(count)]
        moments = [{name: tensors[f"{name}.{i}"] for name in _MOMENTS} for i in range(count)]
        checks = tuple(Check(**check) for check in facts["checks"])
        kept_weights = [tensors[f"kept.{i}"] for i in range(count)] if "kept.0" in tensors else weights
        return cls(facts["seconds"], checks, facts["kept_step"], kept_weights, weights, moments)

    @torch.no_grad()
    def into(self, parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> HealState:
        """Put weights and moments where training goes on; returns the state with those in use."""
        for parameter, weight, moments in zip(parameters, self.weights, self.moments, strict=True):
            parameter.copy_(weight)
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                **{name: moments[name].to(parameter.device, copy=True) for name in _MOMENTS},
            }
        return replace(self, weights=parameters)
