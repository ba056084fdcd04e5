"""``svd`` against truncated decompositions of written-out products, and as a job that takes no moments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from allocator.methods.registry import METHODS
from solvers.a3.compress import LayerSolution
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights
from tests.support import damage
from tests.support.homes import WINDOW, opened_home
from tests.support.models import tiny

SVD = METHODS["svd"]


def solved(family: str, **options: Any) -> tuple[LayerWeights, LayerSolution]:
    weights = open_model(tiny(family, **options)).source[1]
    return weights, SVD.solve(weights, SVD.moments_of(weights))


def with_bias(matrix_Dnr: torch.Tensor, bias_nr: torch.Tensor | None) -> torch.Tensor:
    """(n, D, r), or (n, D + 1, r): a bias is what an input of ones is multiplied by."""
    rows = matrix_Dnr.permute(1, 0, 2)
    return rows if bias_nr is None else torch.cat([rows, bias_nr[:, None]], dim=1)


def scores(weights: LayerWeights) -> torch.Tensor:
    """(H, D, D): W_q W_k' of every query head."""
    keys = with_bias(weights.k_DKr, weights.k_bias_Kr).repeat_interleave(
        weights.heads // weights.kv_heads, dim=0
    )
    return with_bias(weights.q_DHr, weights.q_bias_Hr) @ keys.mT


def outputs(weights: LayerWeights) -> torch.Tensor:
    """(K, D, g D): W_v [W_o,1 .. W_o,g] of every value head."""
    beside = weights.o_HrD.unflatten(0, (weights.kv_heads, -1)).permute(0, 2, 1, 3).flatten(2)
    return with_bias(weights.v_DKr, weights.v_bias_Kr) @ beside


def tails(products: torch.Tensor, rank: int) -> torch.Tensor:
    """What a truncated SVD of each of these loses."""
    return torch.linalg.svdvals(products)[..., rank:].square().sum()


@pytest.mark.parametrize(("family", "options"), [("gpt2", {}), ("opt", {}), ("mpt", {})])
def test_without_rotary_positions_scores_are_a_truncated_svd(family: str, options: dict[str, Any]) -> None:
    weights, solution = solved(family, **options)
    for rank in range(1, weights.qk_rank):
        lost = (scores(weights) - scores(solution.compressed(qk=rank))).square().sum()
        assert lost.item() == pytest.approx(tails(scores(weights), rank).item(), rel=1e-9)
        assert solution.losses("qk")[rank].item() == pytest.approx(lost.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {}),
        ("opt", {}),
        ("llama", {"kv_heads": 4}),
        ("llama", {"kv_heads": 2, "attention_bias": True}),
    ],
)
def test_values_and_output_are_a_truncated_svd(family: str, options: dict[str, Any]) -> None:
    """Of a group's outputs side by side, where queries are grouped."""
    weights, solution = solved(family, **options)
    for rank in range(1, weights.ov_rank):
        lost = (outputs(weights) - outputs(solution.compressed(ov=rank))).square().sum()
        assert lost.item() == pytest.approx(tails(outputs(weights), rank).item(), rel=1e-9)
        assert solution.losses("ov")[rank].item() == pytest.approx(lost.item(), rel=1e-9)


@pytest.mark.parametrize("options", [{"kv_heads": 4}, {"kv_heads": 2, "attention_bias": True}])
def test_rotary_pairs_are_chosen_by_what_they_do_at_all_angles(options: dict[str, Any]) -> None:
    weights, solution = solved("llama", **options)
    group, half = weights.heads // weights.kv_heads, weights.qk_rank // 2
    queries = with_bias(weights.q_DHr, weights.q_bias_Hr).unflatten(-1, (2, half))
    keys = with_bias(weights.k_DKr, weights.k_bias_Kr).unflatten(-1, (2, half))
    shares = torch.zeros(weights.kv_heads, half, dtype=torch.float64)
    for head in range(weights.heads):
        for angle in (2 * math.pi * step / 8 for step in range(8)):
            cos, sin = math.cos(angle), math.sin(angle)
            turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
            for pair in range(half):
                product = queries[head, ..., pair] @ turn @ keys[head // group, ..., pair].mT
                shares[head // group, pair] += product.square().sum() / 8
    for rank in range(0, weights.qk_rank, 2):
        kept = shares.argsort(dim=1, descending=True)[:, : rank // 2].sort().values
        lost = shares.sum() - shares.gather(1, kept).sum()
        assert solution.losses("qk")[rank].item() == pytest.approx(lost.item(), rel=1e-9)
        cut = solution.compressed(qk=rank).pairs if rank else None
        assert cut is None or cut.tolist() == kept.tolist()


@pytest.mark.parametrize(("family", "options"), [("gpt2", {}), ("llama", {"attention_bias": True})])
def test_neurons_stay_by_the_norms_of_their_matrices(family: str, options: dict[str, Any]) -> None:
    weights, solution = solved(family, **options)
    sizes = []
    for neuron in range(weights.mlp_rank):
        size = weights.down_mD[neuron].norm() ** 2
        ups = [(weights.up_Dm, weights.up_bias_m), (weights.gate_Dm, weights.gate_bias_m)]
        for matrix, bias in ups:
            if matrix is not None:
                column = matrix[:, neuron]
                size *= (column if bias is None else torch.cat([column, bias[neuron, None]])).norm() ** 2
        sizes.append(size.item())
    order = sorted(range(weights.mlp_rank), key=lambda neuron: -sizes[neuron])
    cut = solution.compressed(mlp=17)
    assert torch.equal(cut.down_mD, weights.down_mD[sorted(order[:17])])
    assert torch.equal(cut.up_Dm, weights.up_Dm[:, sorted(order[:17])])
    assert solution.losses("mlp")[17].item() == pytest.approx(sum(sizes[neuron] for neuron in order[17:]))


def test_a_part_that_is_not_rotated_is_decomposed_beside_the_pairs() -> None:
    weights, solution = solved("gpt_neox")
    assert weights.pairs is not None
    for rank in range(1, weights.qk_rank):
        cut = solution.compressed(qk=rank)
        assert cut.qk_rank == rank
    losses = solution.losses("qk")
    assert (losses.diff() <= 0).all()
    assert losses[-1] == 0


def test_a_job_takes_no_moments_and_says_so(tmp_path: Path) -> None:
    """Beside its plan stands no model by the paper's method, which would need them."""
    model = damage.brief(tmp_path, window=WINDOW, calibration=12_000, layers=2)
    with opened_home(tmp_path / "home") as home:
        job = home.run(model, "compress", solver="svd", budgets=["block_params=0.8"], refine=0)
        assert home.counts(job)["calibrated"] == 0
        assert not list(home.settings.moments_dir.iterdir())
        profile, results = home.profile(job), home.store.items.results(job.id)
        assert (profile.solver, profile.solver_version) == ("svd", SVD.version)
        said = [event.message for event in home.store.events.list(job.team, job.id)]
        (cost,) = (message for message in said if message.startswith("profile to make"))
        assert "moments" not in cost
        lost = {result["name"]: result["measured_loss_nats"] for result in results["evaluate"]}
        assert lost.keys() == {"dense", "uniform", "uniform_kind", "plan"}
        assert results["apply"][0]["feedback"] == []
