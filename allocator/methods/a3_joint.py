"""a3+ whose values may be one latent of all heads."""

from __future__ import annotations

from allocator.methods.a3_plus import A3Plus
from allocator.plan.model.precision import JOINT


class A3Joint(A3Plus):
    """a3+, and in layers where that pays one latent in place of the values of all heads: a smaller cache for the same loss."""

    name = "a3+joint"
    version = "a3+joint/1"
    title = "a3+ whose values may be one latent of all heads, where that pays"
    help = "a3+ with one latent of all value heads where that pays"
    latents = (JOINT,)
