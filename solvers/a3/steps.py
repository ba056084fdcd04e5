"""Which steps are taken beyond the paper: ``A3`` takes none of ours, ``A3_PLUS`` all; ablations are everything in between."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Steps:
    """Improvements over A3 at A3's own shapes; each may be switched on alone, where nothing is said to the contrary.

    The derivation of each stands where it is computed (``solvers.a3.metric``, ``qk_gains``, ``ov_joint``, ``mlp_elimination``,
    ``feedback``).
    """

    qk_metric: bool = False
    """Choose rotary pairs, or the bases of unrotated queries and keys, in the softmax's own second-order metric."""
    qk_gains: bool = False
    """Refit a complex gain per kept rotary pair; nothing without rotary positions."""
    ov_heads: bool = False
    """Grouped queries: attention-weighted moments and each query head's own output factor."""
    ov_refit: bool = False
    """Refit the output projection over all heads at once."""
    mlp_order: bool = False
    """Order neurons by compensated backward elimination."""
    mlp_refit: bool = False
    """Refit down_proj on the kept neurons."""
    feedback: bool = False
    """Refit layer by layer toward the dense residual stream (needs the calibration windows; ``solvers.a3.feedback``)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The steps taken, in the order of the fields."""
        return tuple(item.name for item in fields(self) if getattr(self, item.name))


A3 = Steps()
A3_PLUS = Steps(**{item.name: True for item in fields(Steps)})
