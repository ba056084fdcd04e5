"""The head-space solvers against the paper's literal d x d formulas (arXiv 2505.12942v4), in float64.

The literal side never touches ``solvers.a3.qk``, ``ov``, ``mlp`` or ``moments``: it hooks the *stock* model for the tokens X
and computes roots, products and SVDs of d x d matrices as the paper prints them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from solvers.a3 import moments as moments_module
from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.qk_partial import QKPartial
from solvers.families import FAMILIES
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights
from tests.support.models import PARTIAL_PHI, SLIDING_QWEN, tiny, token_ids

ROTARY = [
    pytest.param("llama", {"kv_heads": 4}, id="llama-mha"),
    pytest.param("llama", {"kv_heads": 2}, id="llama-gqa"),
    pytest.param("llama", {"kv_heads": 1, "attention_bias": True}, id="llama-mqa-bias"),
    pytest.param("qwen2", SLIDING_QWEN, id="qwen2-bias-window"),
    pytest.param("mistral", {}, id="mistral"),
    pytest.param("gemma2", {}, id="gemma2"),
    pytest.param("phi3", {}, id="phi3"),
]
PARTIAL = [
    pytest.param("gpt_neox", {}, id="gpt_neox-mha"),
    pytest.param("phi3", PARTIAL_PHI, id="phi3-partial-gqa"),
]
PLAIN = [pytest.param(family, {}, id=family) for family in ("gpt2", "opt", "mpt")]
NORMED = [pytest.param(family, {}, id=family) for family in ("qwen3", "gemma3_text")]
EXPERTS = [pytest.param("mixtral", {}, id="mixtral")]
OUTPUTS = {
    "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
    "opt": "fc2",
    "mpt": "ffn.down_proj",
    "mixtral": "mlp.experts",
}
"""Where a stock layer's MLP ends, if not in ``mlp.down_proj``."""
LAYER = 1
TOLERANCE = 1e-8


@dataclass
class Literal:
    """Everything the paper's formulas start from."""

    x: torch.Tensor  # (N, d) input of the attention block, after its norm
    mlp_x: torch.Tensor  # (N, m) input of down_proj
    attended: torch.Tensor  # (H, N, d) P_i = softmax(A_i) X
    weights: LayerWeights
    solution: LayerSolution


def literal(family: str, options: dict[str, Any]) -> Literal:
    model, ids = tiny(family, **options), token_ids()
    layer = FAMILIES[family].layers(model)[LAYER]
    attention = getattr(layer, FAMILIES[family].attention_name)
    output = layer.get_submodule(OUTPUTS.get(family, "mlp.down_proj"))
    caught: dict[str, torch.Tensor] = {}
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(x=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    handle = attention.register_forward_hook(lambda module, args, out: caught.update(probabilities=out[1]))
    output.register_forward_pre_hook(lambda module, args: caught.update(mlp=args[0]))
    weights = FAMILIES[family].read_layer(model.config, layer)
    usual = model.config._attn_implementation
    with torch.no_grad():
        # Only the eager kernel shows probabilities, but it takes its softmax in float32.
        model.config._attn_implementation = "eager"
        model(ids)
        handle.remove()
        model.config._attn_implementation = usual
        model(ids)
    attended = torch.einsum("bhts,bsd->hbtd", caught["probabilities"], caught["x"]).flatten(1, 2)
    found = moments_module.collect(open_model(model), ids)[LAYER]
    return Literal(
        x=caught["x"].flatten(0, 1),
        mlp_x=caught["mlp"].reshape(-1, caught["mlp"].shape[-1]),
        attended=attended,
        weights=weights,
        solution=solve_layer(weights, found),
    )


def with_ones(x: torch.Tensor) -> torch.Tensor:
    """The bias as one more input: the only way to give the paper's bias-free formulas a model with biases."""
    return torch.cat([x, x.new_ones((*x.shape[:-1], 1))], dim=-1)


def with_row(matrix: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.cat([matrix, (matrix.new_zeros(matrix.shape[1]) if bias is None else bias)[None]])


def root(gram: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def pinv_root(gram: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(gram)
    keep = values > values[-1] * 1e-13
    return vectors[:, keep] @ torch.diag(values[keep].rsqrt()) @ vectors[:, keep].T


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * sigma[:rank] @ right[:rank]


def head(weights: torch.Tensor, bias: torch.Tensor | None, index: int) -> torch.Tensor:
    return with_row(weights[:, index], None if bias is None else bias[index])


def scores(case: Literal, weights: LayerWeights, query: int) -> torch.Tensor:
    """All N x N scores of one query head, unrotated, divided by N."""
    x, group = with_ones(case.x), weights.heads // weights.kv_heads
    q = x @ head(weights.q_DHr, weights.q_bias_Hr, query)
    k = x @ head(weights.k_DKr, weights.k_bias_Kr, query // group)
    return q @ k.T / x.shape[0]


@pytest.mark.parametrize(("family", "options"), PLAIN)
@pytest.mark.parametrize("rank", [1, 3, 5, 6])
def test_qk_without_rotary_is_theorem_3_2(family: str, options: dict[str, Any], rank: int) -> None:
    case = literal(family, options)
    x = with_ones(case.x)
    half, inverse = root(x.T @ x / len(x)), pinv_root(x.T @ x / len(x))
    compressed = case.solution.compressed(qk=rank)
    expected_loss = 0.0
    for i in range(case.weights.heads):
        product = (
            head(case.weights.q_DHr, case.weights.q_bias_Hr, i)
            @ head(case.weights.k_DKr, case.weights.k_bias_Kr, i).T
        )
        best = inverse @ truncated(half @ product @ half, rank) @ inverse
        expected = x @ best @ x.T / len(x)
        ours = scores(case, compressed, i)
        assert (expected - ours).square().sum() <= TOLERANCE * case.solution.qk.energy
        expected_loss += float((half @ (product - best) @ half).square().sum())
    assert abs(expected_loss - float(case.solution.losses("qk")[rank])) <= TOLERANCE * case.solution.qk.energy


@pytest.mark.parametrize("rank", [1, 3, 5, 8])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_qk_without_rotary_grouped_is_section_3_4(rank: int, kv_heads: int) -> None:
    """No stock family here has grouped queries and no rotation, so the moments of a Llama are used without the rotated ones."""
    case = literal("llama", {"kv_heads": kv_heads, "attention_bias": True})
    model, ids = tiny("llama", kv_heads=kv_heads, attention_bias=True), token_ids()
    plain = replace(
        moments_module.collect(open_model(model), ids)[LAYER], q_rotated_Khh=None, k_rotated_Khh=None
    )
    solution = solve_layer(case.weights, plain)
    compressed = solution.compressed(qk=rank)
    x = with_ones(case.x)
    half, inverse = root(x.T @ x / len(x)), pinv_root(x.T @ x / len(x))
    group, expected_loss = case.weights.heads // kv_heads, 0.0
    for j in range(kv_heads):
        key = head(case.weights.k_DKr, case.weights.k_bias_Kr, j)
        stacked = torch.cat(
            [
                half @ head(case.weights.q_DHr, case.weights.q_bias_Hr, i) @ key.T @ half
                for i in range(j * group, (j + 1) * group)
            ]
        )
        best = truncated(stacked, rank)
        expected_loss += float((stacked - best).square().sum())
        for n, i in enumerate(range(j * group, (j + 1) * group)):
            block = inverse @ best[n * x.shape[1] : (n + 1) * x.shape[1]] @ inverse
            gap = x @ block @ x.T / len(x) - scores(case, compressed, i)
            assert gap.square().sum() <= TOLERANCE * solution.qk.energy
    assert abs(expected_loss - float(solution.losses("qk")[rank])) <= TOLERANCE * solution.qk.energy


@pytest.mark.parametrize(("family", "options"), ROTARY)
def test_rotary_pairs_are_appendix_b5(family: str, options: dict[str, Any]) -> None:
    case = literal(family, options)
    x = with_ones(case.x)
    half = root(x.T @ x / len(x))
    weights, group = case.weights, case.weights.heads // case.weights.kv_heads
    size = weights.qk_rank
    for j in range(weights.kv_heads):
        left = torch.stack(
            [half @ head(weights.q_DHr, weights.q_bias_Hr, i) for i in range(j * group, (j + 1) * group)]
        )
        right = head(weights.k_DKr, weights.k_bias_Kr, j).T @ half
        per_dim = left.square().sum(dim=(0, 1)) * right.square().sum(dim=1)
        importance = per_dim[: size // 2] + per_dim[size // 2 :]
        for rank in range(2, size + 1, 2):
            kept = set(case.solution.compressed(qk=rank).pairs[j].tolist())  # type: ignore[index]
            assert kept == set(importance.topk(rank // 2).indices.tolist())


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN, *NORMED, *EXPERTS])
@pytest.mark.parametrize("rank", [1, 4, 5])
def test_ov_is_theorem_3_3_and_its_grouped_form(family: str, options: dict[str, Any], rank: int) -> None:
    case = literal(family, options)
    weights, group = case.weights, case.weights.heads // case.weights.kv_heads
    compressed, expected_loss = case.solution.compressed(ov=rank), 0.0
    for j in range(weights.kv_heads):
        heads = range(j * group, (j + 1) * group)
        value = head(weights.v_DKr, weights.v_bias_Kr, j)
        data = with_ones(case.attended[j] if group == 1 else case.x)
        half, inverse = root(data.T @ data / len(data)), pinv_root(data.T @ data / len(data))
        products = torch.cat([value @ weights.o_HrD[i] for i in heads], dim=1)
        best = inverse @ truncated(half @ products, rank)
        expected_loss += float((half @ (products - best)).square().sum())
        ours_value = head(compressed.v_DKr, compressed.v_bias_Kr, j)
        ours = torch.cat([ours_value @ compressed.o_HrD[i] for i in heads], dim=1)
        gap = (data @ (best - ours)).square().sum() / len(data)
        assert gap <= TOLERANCE * case.solution.ov.energy
    assert abs(expected_loss - float(case.solution.losses("ov")[rank])) <= TOLERANCE * case.solution.ov.energy


@pytest.mark.parametrize(("family", "options"), [*ROTARY[1:4], *PARTIAL, *PLAIN, *NORMED])
def test_mlp_keeps_the_paper_s_neurons_and_states_the_true_loss(family: str, options: dict[str, Any]) -> None:
    case = literal(family, options)
    x, w = case.mlp_x, case.weights.down_mD
    columns = root(x.T @ x / len(x))
    importance = columns.square().sum(dim=0) * w.square().sum(dim=1)
    # Neurons that never fire (OPT's ReLU) have no order among themselves.
    live = int((importance > 1e-12 * importance.max()).sum())
    for rank in (1, 7, 20, min(39, live)):
        kept = importance.topk(rank).indices.sort().values
        ours = case.solution.compressed(mlp=rank)
        assert torch.equal(ours.down_mD, w[kept])
        assert torch.equal(ours.up_Dm, case.weights.up_Dm[:, kept])
        for name in ("gate_Dm", "up_bias_m", "gate_bias_m"):
            before, after = getattr(case.weights, name), getattr(ours, name)
            assert after is None if before is None else torch.equal(after, before[..., kept])
        measured = (x @ w - x[:, kept] @ w[kept]).square().sum() / len(x)
        assert (
            abs(float(measured) - float(case.solution.losses("mlp")[rank]))
            <= TOLERANCE * case.solution.mlp.energy
        )


class Scores:
    """Rotated scores over all (query, key) pairs of the tokens, per head, from one layer of an opened model."""

    def __init__(self, family: str, options: dict[str, Any]) -> None:
        self.opened = open_model(tiny(family, **options))
        hidden, self.calls = self.opened.start(token_ids())
        self.hidden = self.opened.advance(hidden, self.calls, 0, LAYER)
        self.dense = self.now()

    def now(self) -> torch.Tensor:
        attention, caught = self.opened.attention(LAYER), {}
        handle = attention.register_forward_pre_hook(
            lambda module, args, kwargs: caught.update(x=args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        self.opened.advance(self.hidden, self.calls, LAYER, LAYER + 1)
        handle.remove()
        with torch.no_grad():
            query, key, _ = attention.project(caught["x"])
            query, key = attention.rotated(query, key, self.calls[LAYER]["position_embeddings"])
        key = key.repeat_interleave(attention.num_key_value_groups, dim=1)
        q, k = (states.transpose(0, 1).flatten(1, 2) for states in (query, key))
        return q @ k.mT / q.shape[1]

    def error(self, weights: LayerWeights) -> float:
        self.opened.put(LAYER, weights)
        return float((self.dense - self.now()).square().sum())


@pytest.mark.parametrize(("family", "options"), ROTARY)
def test_rotary_loss_is_the_measured_score_error(family: str, options: dict[str, Any]) -> None:
    case, measured = literal(family, options), Scores(family, options)
    for rank in range(2, case.weights.qk_rank, 2):
        gap = measured.error(case.solution.compressed(qk=rank)) - float(case.solution.losses("qk")[rank])
        assert abs(gap) <= TOLERANCE * case.solution.qk.energy


@pytest.mark.parametrize(("family", "options"), PARTIAL)
def test_partly_rotated_heads_are_divided_best_and_state_the_true_loss(
    family: str, options: dict[str, Any]
) -> None:
    """Every rank's loss is the measured error, cross terms included, and no other division of it has less."""
    case, measured = literal(family, options), Scores(family, options)
    qk, size = case.solution.qk, case.weights.qk_rank
    assert isinstance(qk, QKPartial)
    half = size // 4
    assert qk.pairs.order_KP.shape[1] == half
    for rank in range(1, size):
        loss, seen = float(case.solution.losses("qk")[rank]), []
        for pairs in range(max(0, -(-(rank - 2 * half) // 2)), min(half, rank // 2) + 1):
            divided = replace(qk, kept_pairs=torch.full((size + 1,), pairs)).apply(case.solution.dense, rank)
            assert divided.qk_rank == rank
            assert divided.pairs is not None
            assert divided.pairs.shape[1] == pairs
            seen.append(measured.error(divided))
        assert abs(min(seen) - loss) <= TOLERANCE * qk.energy
        assert abs(measured.error(case.solution.compressed(qk=rank)) - loss) <= TOLERANCE * qk.energy


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN, *NORMED, *EXPERTS])
def test_losses_fall_to_zero_with_the_rank(family: str, options: dict[str, Any]) -> None:
    solution = literal(family, options).solution
    for component in ("qk", "ov", "mlp"):
        losses = solution.losses(component)  # type: ignore[arg-type]
        energy = getattr(solution, component).energy
        assert losses[-1] <= TOLERANCE * energy
        assert losses[0] == pytest.approx(energy)
        if component == "ov" or (component == "qk" and family in ("gpt2", "opt", "mpt")):
            assert (losses.diff() <= 1e-12 * energy).all()
