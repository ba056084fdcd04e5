"""Which plans a GGUF file can hold, by sizes alone: what llama.cpp's graphs leave free (``solvers.gguf.architectures``).

    QK                 dense everywhere: heads are rotated by one set of frequencies
    MLP by layer       llama, mistral, qwen2, and qwen3 with tied embeddings; then OV is dense and there are no windows
    OV of one rank     llama, mistral, qwen2, qwen3, without biases on outputs and in MLPs; then the MLPs have one rank too
    gemma, 2 and 3     OV dense, MLPs of one rank

llama.cpp allocates K and V of every layer in float16 (``llama_kv_cache`` in ``src/llama-kv-cache.cpp``): for each cell
2 K (head_dim + r_ov) bytes; cells are the context rounded up to 256, of layers with a window W the least of that and W + 512
(a batch), rounded up likewise.
"""

from __future__ import annotations

from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.ask.constraints import Constraints
from allocator.plan.metrics.counts import Counts
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.ranks import Ranks

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
_ONE_MLP = "--tie mlp"
_DENSE = {component: f"--pin '*.{component}=dense'" for component in COMPONENTS}


def check_gguf(geometry: Geometry, ranks: Ranks) -> None:
    """Refuse a plan that no file can hold.

    Raises:
        InvalidInput: the first component at fault, in the order of layers, and the rule.
    """
    _check_family(geometry)
    if ranks.bits:
        raise _refused(
            "bits", "llama.cpp does not read torchao's; plan without --bits and take model-q8_0.gguf"
        )
    for component in ("qk", "ov"):
        for layer, rank in enumerate(ranks.of(component)):
            one = geometry.head_dim if component == "qk" else ranks.ov[0]
            if rank != one:
                raise _refused(f"layer {layer} {component} at rank {rank}", _rule(component))
    cut = ranks.ov[0] != geometry.head_dim
    free = next((layer for layer, rank in enumerate(ranks.mlp) if rank != ranks.mlp[0]), None)
    if fault := _fault(geometry, ov_cut=cut, mlp_free=free is not None):
        component, rule = fault
        layer = free if component == "mlp" and free is not None else 0
        raise _refused(f"layer {layer} {component} at rank {ranks.of(component)[layer]}", rule)


def check_gguf_constraints(geometry: Geometry, constraints: Constraints) -> None:
    """Refuse constraints that leave room for a plan that no file can hold: said before a model is measured.

    Raises:
        InvalidInput: the first component, and the constraint that is missing.
    """
    _check_family(geometry)
    one = {component: _has_one(geometry, constraints, component) for component in COMPONENTS}
    dense = {
        component: all(
            constraints.allowed[layer, component] == (geometry.full_rank(component),)
            for layer in range(geometry.layers)
        )
        for component in COMPONENTS
    }
    if not dense["qk"]:
        raise _refused("qk that may be cut", _rule("qk"))
    if not one["ov"]:
        raise _refused("ov that may differ by layer", _rule("ov"))
    if fault := _fault(geometry, ov_cut=not dense["ov"], mlp_free=not one["mlp"]):
        component, rule = fault
        raise _refused(f"{component} that may be cut{' by layer' if component == 'mlp' else ''}", rule)


def cache_bytes_per_cell(geometry: Geometry, ranks: Ranks) -> int:
    """Bytes of K and V in float16 that llama.cpp allocates for one cell of every layer."""
    return sum(2 * geometry.kv_heads * (geometry.head_dim + rank) for rank in ranks.ov)


def _check_family(geometry: Geometry) -> None:
    if geometry.family not in FAMILIES:
        raise _refused(f"{geometry.family} models", f"{', '.join(FAMILIES)} are written")
    if geometry.qk_bias and geometry.family in ("qwen3", *_GEMMAS):
        raise _refused(f"{geometry.family} models with biases in attention", "llama.cpp has none there")


def _fault(geometry: Geometry, *, ov_cut: bool, mlp_free: bool) -> tuple[Component, str] | None:
    """The component that no graph holds beside the others, and the rule; QK is dense and OV has one rank."""
    family = geometry.family
    windows = any(0 < window < geometry.max_positions for window in geometry.windows)
    if family in _GEMMAS:
        if ov_cut:
            return "ov", f"of {family} it stays dense: {_DENSE['ov']}"
        return ("mlp", f"all layers of {family} have one rank: {_ONE_MLP}") if mlp_free else None
    biased = geometry.mlp_bias or (family == "llama" and geometry.ov_bias)
    if ov_cut and biased:
        return "ov", f"beside biases on outputs or in MLPs it stays dense: {_DENSE['ov']}"
    if not mlp_free:
        return None
    if ov_cut:
        return "mlp", f"beside a cut OV all layers have one rank: {_ONE_MLP}, or {_DENSE['ov']}"
    if windows:
        return "mlp", f"beside sliding windows all layers have one rank: {_ONE_MLP}"
    if family == "qwen3" and Counts(geometry).fixed_params >= 2 * geometry.vocab * geometry.hidden:
        return "mlp", f"of qwen3 with a head of its own all layers have one rank: {_ONE_MLP}"
    return None


def _has_one(geometry: Geometry, constraints: Constraints, component: Component) -> bool:
    """Whether all layers are sure to have one rank."""
    places = {(layer, component) for layer in range(geometry.layers)}
    if any(places <= set(tie) for tie in constraints.ties):
        return True
    left = {rank for place in places for rank in constraints.allowed[place]}
    return len(left) == 1


def _rule(component: Component) -> str:
    if component == "qk":
        return f"llama.cpp rotates all heads by the same frequencies, so it stays dense: {_DENSE['qk']}"
    return f"llama.cpp has one size of values for all layers: {_DENSE['ov']}, or --tie ov with {_ONE_MLP}"


def _refused(found: str, rule: str) -> InvalidInput:
    return InvalidInput(
        f"export: a GGUF file cannot hold {found}; {rule}",
        fields=[FieldError("export", f"gguf with {found}", rule)],
    )
