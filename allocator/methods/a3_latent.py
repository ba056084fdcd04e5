"""a3+ whose queries and values may be made of latents."""

from __future__ import annotations

from allocator.methods.a3_plus import A3Plus
from allocator.plan.model.precision import JOINT, LATENT


class A3Latent(A3Plus):
    """a3+, and in layers where that pays one latent for the queries of all heads (fewer parameters for the same loss), or for
    their values (a smaller cache).
    """

    name = "a3+latent"
    version = "a3+latent/1"
    title = "a3+ whose queries and values may be made of one latent for all heads, where that pays"
    help = "a3+ with latents of all query or value heads where that pays: the least loss, for transformers and vLLM"
    latents = (LATENT, JOINT)
