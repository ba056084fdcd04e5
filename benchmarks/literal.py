"""The paper's own procedure (A3, arXiv 2505.12942v4), to be timed: d x d roots, products and decompositions in float64.

Roots are taken by SVD, as the paper does (SVD-LLM v2), and the grouped OV decomposition by ``torch.svd_lowrank``, as the paper
says for "faster solving". d hidden size, h head size, m MLP neurons, g query heads per key/value head; moments are uncentred.
"""

from __future__ import annotations

import torch


def root(moment_dd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``R^1/2``, and the vectors and roots of the values that ``R^-1/2`` is made of."""
    left, values, _ = torch.linalg.svd(moment_dd)
    roots = values.sqrt()
    return left * roots @ left.T, left, roots


def qk_head(
    root_dd: torch.Tensor, inverse_dd: torch.Tensor, q_Dh: torch.Tensor, k_Dh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Theorem 3.2: new W_q, new W_k' for every rank by prefixes, and the singular values. The layer's roots are given."""
    left, sigma, right = torch.linalg.svd(root_dd @ (q_Dh @ k_Dh.T) @ root_dd)
    size = q_Dh.shape[1]
    return inverse_dd @ left[:, :size], sigma[:size, None] * right[:size] @ inverse_dd, sigma


def ov_head(
    root_dd: torch.Tensor, left: torch.Tensor, roots: torch.Tensor, v_Dh: torch.Tensor, o_hD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Theorem 3.3, given the SVD of this head's own moment: new W_v, new W_o, singular values."""
    inverse_dd = left / roots @ left.T
    vectors, sigma, right = torch.linalg.svd(root_dd @ (v_Dh @ o_hD))
    size = v_Dh.shape[1]
    return inverse_dd @ vectors[:, :size], sigma[:size, None] * right[:size], sigma


def ov_group(
    root_dd: torch.Tensor, inverse_dd: torch.Tensor, v_Dh: torch.Tensor, o_hgD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Section 3.4 for one group, its W_o side by side (h, g D). The layer's roots are given."""
    left, sigma, right = torch.svd_lowrank(root_dd @ (v_Dh @ o_hgD), q=v_Dh.shape[1])
    return inverse_dd @ left, (right * sigma).T, sigma


def qk_rotary(root_dd: torch.Tensor, q_DHh: torch.Tensor, k_DKh: torch.Tensor) -> torch.Tensor:
    """App. B.5: importance (K, P) of every pair of every key head. The layer's root is given."""
    kv_heads = k_DKh.shape[1]
    energies = [
        (root_dd @ side.flatten(1)).view(side.shape).square().sum(0).unflatten(0, (kv_heads, -1)).sum(1)
        for side in (q_DHh, k_DKh)
    ]
    return (energies[0] * energies[1]).unflatten(1, (2, -1)).sum(1)


def mlp(root_mm: torch.Tensor, down_mD: torch.Tensor) -> torch.Tensor:
    """Section 3.3: importance of every neuron from the columns of ``R^1/2`` and the rows of W_down. The root is given."""
    return root_mm.square().sum(0) * down_mD.square().sum(1)
