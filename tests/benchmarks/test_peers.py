"""Peers as a whole: dense at keep=1, counts, pruning, KV methods and slicing, on every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.peers import KV_PEERS, PEERS, kv, moments, pruning, slicegpt
from benchmarks.peers.blocks import READS, Work, blocks
from tests.benchmarks.peer_models import FAMILIES, activations, logits, symmetric_root, truncated
from tests.support.models import tiny, token_ids

ALL = PEERS | KV_PEERS


def written_params(model: Any) -> int:
    """Fewest numbers that hold the matrices as written: factors of their rank, or their nonzero rows and columns."""
    total = 0
    for block in blocks(model):
        for name, slot in block.slots.items():
            weight, bias = slot.weight, slot.bias
            rows, columns = int(weight.any(1).sum()), int(weight.any(0).sum())
            rank = int(torch.linalg.matrix_rank(weight))
            total += min(rows * columns, rank * (rows + columns))
            if name in ("q", "k", "v", "gate", "up") and bias is not None:
                total += int((bias != 0).sum())
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ALL)
def test_everything_kept_is_the_dense_function(models: dict[str, Any], family: str, method: str) -> None:
    model = models[family]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    same, accounting = ALL[method](model, token_ids(), 1.0)
    torch.testing.assert_close(logits(same), logits(model), rtol=0, atol=1e-9)
    assert accounting.block_params == accounting.dense_block_params == written_params(model)
    assert accounting.kv_elements_per_token == accounting.dense_kv_elements_per_token
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", PEERS)
def test_counts_stay_below_the_target_and_are_what_is_written(
    models: dict[str, Any], family: str, method: str
) -> None:
    for keep in (0.9, 0.65):
        small, accounting = PEERS[method](models[family], token_ids(), keep)
        assert accounting.block_params <= keep * accounting.dense_block_params
        assert accounting.block_params > (keep - 0.1) * accounting.dense_block_params
        if method != "slicegpt":  # runs as projections, its sliced sizes are checked below
            assert accounting.block_params >= written_params(small)
        if method in ("svd", "svd_llm_w", "magnitude"):
            assert accounting.block_params == written_params(small)
        assert (logits(small) - logits(models[family])).abs().max() > 1e-4


def test_the_same_input_gives_the_same_numbers(models: dict[str, Any]) -> None:
    for method in ("svd_llm", "modegpt", "slicegpt"):
        first, second = (PEERS[method](models["llama"], token_ids(), 0.7)[0] for _ in range(2))
        assert torch.equal(logits(first), logits(second))


def test_moments_are_collected_anew_when_anything_changes(models: dict[str, Any]) -> None:
    model, windows = moments.copied(models["llama"]), token_ids()
    first = moments.collect(model, windows)
    assert moments.collect(model, windows) is first
    assert moments.collect(model, windows.clone()) is not first
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(2)
    assert not torch.equal(moments.collect(model, windows)[0]["o"].outer, first[0]["o"].outer)


def test_fused_projections_are_cut_as_the_models_cut_them(models: dict[str, Any]) -> None:
    gpt2, neox = (blocks(models[family])[0].slots for family in ("gpt2", "gpt_neox"))
    x = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        by_family = (
            (gpt2, models["gpt2"].transformer.h[0].attn.c_attn(x).split(24, dim=1)),
            (
                neox,
                models["gpt_neox"]
                .gpt_neox.layers[0]
                .attention.query_key_value(x)
                .view(5, 3, 24)
                .chunk(3, -1),
            ),
        )
    for slots, parts in by_family:
        for name, part in zip("qkv", parts, strict=True):
            torch.testing.assert_close(x @ slots[name].weight.T + slots[name].bias, part.reshape(5, 24))


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_those_of_the_raw_activations(models: dict[str, Any], family: str) -> None:
    found = moments.collect(models[family], token_ids())[1]
    raw = activations(models[family], 1)
    for name, slot in blocks(models[family])[1].slots.items():
        moment, x, y = found[READS[name]], raw[name], raw[f"out:{name}"]
        torch.testing.assert_close(moment.second, x.T @ x / len(x))
        torch.testing.assert_close(moment.mean_absolute, x.abs().mean(0))
        torch.testing.assert_close(moment.output(slot), y.T @ y / len(y))


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_pruning_keeps_the_best_scores_unchanged(models: dict[str, Any], method: str) -> None:
    model = models["llama"]
    small, _ = PEERS[method](model, token_ids(), 0.7)
    for index, (old, new) in enumerate(zip(blocks(model), blocks(small), strict=True)):
        raw = activations(model, index)
        norm = {
            n: raw[n].square().sum(0).sqrt() if method == "wanda" else torch.ones(raw[n].shape[1])
            for n in raw
        }
        W, size = old.slots["down"].weight, old.head_dim
        scores = torch.stack(
            [sum(W[i, j].abs() * norm["down"][j] for i in range(len(W))) for j in range(W.shape[1])]
        )
        kept = new.slots["down"].weight.any(0)
        assert scores[kept].min() >= scores[~kept].max()
        assert torch.equal(new.slots["down"].weight[:, kept], W[:, kept])
        for name in ("gate", "up"):
            assert torch.equal(new.slots[name].weight.any(1), kept)
        rows_k = new.slots["k"].weight.any(1).view(old.kv_heads, 2, size // 2)
        assert torch.equal(rows_k[:, 0], rows_k[:, 1])  # rotary pairs stay whole
        rows_q = new.slots["q"].weight.any(1).view(old.kv_heads, old.group, size)
        assert torch.equal(rows_q, rows_k.reshape(old.kv_heads, 1, size).expand_as(rows_q))
        rows_v = new.slots["v"].weight.any(1).view(old.kv_heads, size).sum(1)
        assert len(set(rows_v.tolist())) == 1
        out = new.slots["o"].weight
        assert set(out[0][out[0] != 0].tolist()) <= set(old.slots["o"].weight[0].tolist())


def test_queries_and_keys_may_be_left_alone(models: dict[str, Any]) -> None:
    small, _ = PEERS["wanda_vo"](models["llama"], token_ids(), 0.8)
    for old, new in zip(blocks(models["llama"]), blocks(small), strict=True):
        for name in "qk":
            assert torch.equal(new.slots[name].weight, old.slots[name].weight)
        kept = [float(new.slots[name].weight.any(1).double().mean()) for name in ("v", "up")]
        assert kept == pytest.approx([kept[1]] * 2, abs=0.13)
        assert kept[1] < 0.8


def test_wanda_ignores_neurons_that_never_fire() -> None:
    norms = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    weight = torch.tensor([[9.0, 1.0, -2.0], [9.0, 3.0, 0.0]], dtype=torch.float64)
    assert pruning.column_scores(weight, norms).tolist() == [0.0, 2.0, 2.0]
    assert pruning.row_scores(weight, norms).tolist() == [5.0 / 3, 1.0]


@pytest.mark.parametrize("method", KV_PEERS)
def test_kv_methods_leave_the_mlp_alone_and_count_the_cache(models: dict[str, Any], method: str) -> None:
    for family in FAMILIES:
        small, accounting = KV_PEERS[method](models[family], token_ids(), 0.75)
        kept = accounting.kv_elements_per_token / accounting.dense_kv_elements_per_token
        assert 0.6 < kept <= 0.75
        cached = 0
        for old, new in zip(blocks(models[family]), blocks(small), strict=True):
            for name in ("up", "down"):
                assert torch.equal(old.slots[name].weight, new.slots[name].weight)
            heads = old.kv_heads if method != "clover" else 1
            for name in "kv":
                groups = new.slots[name].weight.unflatten(0, (-1, heads * old.head_dim))
                cached += int(torch.linalg.matrix_rank(groups).sum())
        assert cached == accounting.kv_elements_per_token


def test_palu_is_whitened_svd_of_head_groups_and_fisher_moves_ranks(models: dict[str, Any]) -> None:
    model = models["llama"]
    small, _ = KV_PEERS["palu_uniform"](model, token_ids(), 0.5)
    X = activations(model, 0)["k"]
    root = symmetric_root(X.T @ X / len(X))
    literal = truncated(blocks(model)[0].slots["k"].weight @ root, 8) @ torch.linalg.inv(root)
    torch.testing.assert_close(blocks(small)[0].slots["k"].weight, literal, rtol=0, atol=1e-7)
    groups = {(0, "k", 0): 10, (0, "v", 0): 10, (1, "k", 0): 10}
    weights = {(0, "k", 0): 1.0, (0, "v", 0): 100.0, (1, "k", 0): 2.0}
    assert kv._shares(groups, weights, 0.6) == {(0, "k", 0): 3, (0, "v", 0): 10, (1, "k", 0): 5}


def test_fisher_is_the_root_mean_square_gradient(models: dict[str, Any]) -> None:
    model, windows = moments.copied(models["gpt2"]), token_ids()[:3]
    found = kv._fisher(moments.copied(model), windows)[1, "v"]
    weight, total = model.transformer.h[1].attn.c_attn.weight, 0.0
    for window in windows:
        shown = model(window[None]).logits[0, :-1].log_softmax(-1)
        loss = -shown.gather(1, window[1:, None]).mean()
        total = total + torch.autograd.grad(loss, weight)[0].square()
    torch.testing.assert_close(found, (total / 3).sqrt()[:, 48:].T)


def test_clover_truncates_the_products_per_head(models: dict[str, Any]) -> None:
    model = models["gpt2"]
    small, _ = KV_PEERS["clover"](model, token_ids(), 0.5)

    def augmented(block: Any, name: str, head: int) -> torch.Tensor:
        slot, part = block.slots[name], slice(head * 6, (head + 1) * 6)
        return torch.cat([slot.weight[part], slot.bias[part, None]], dim=1).T

    for old, new in zip(blocks(model), blocks(small), strict=True):
        for head in range(4):
            rows = slice(head * 6, (head + 1) * 6)
            qk = [augmented(block, "q", head) @ augmented(block, "k", head).T for block in (old, new)]
            torch.testing.assert_close(qk[1], truncated(qk[0], 3), rtol=0, atol=1e-10)
            vo = [augmented(block, "v", head) @ block.slots["o"].weight[:, rows].T for block in (old, new)]
            torch.testing.assert_close(vo[1], truncated(vo[0], 3), rtol=0, atol=1e-10)


def test_clover_keeps_rotary_keys_and_says_what_it_cannot(models: dict[str, Any]) -> None:
    small, accounting = KV_PEERS["clover"](models["llama"], token_ids(), 0.75)
    for old, new in zip(blocks(models["llama"]), blocks(small), strict=True):
        assert torch.equal(old.slots["k"].weight, new.slots["k"].weight)
    assert accounting.kv_elements_per_token == 2 * 2 * (8 + 4)
    with pytest.raises(ValueError, match="keeps all of K"):
        KV_PEERS["clover"](models["llama"], token_ids(), 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_slicing_to_the_full_width_changes_nothing(models: dict[str, Any], family: str) -> None:
    work = slicegpt.slice_stream(models[family], token_ids(), 24)
    exact = 1e-6 if family in ("llama", "qwen2") else 1e-9  # transformers computes RMSNorm in float32
    torch.testing.assert_close(logits(work.model), logits(models[family]), rtol=0, atol=exact)


def norm_inputs(model: Any) -> list[torch.Tensor]:
    """Raw inputs (tokens, hidden) of every norm, first to last."""
    caught: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda m, a: caught.append(a[0].flatten(0, -2)))
        for module in model.modules()
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
    ]
    logits(model)
    for handle in handles:
        handle.remove()
    return caught


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sliced_stream_keeps_the_principal_directions(models: dict[str, Any], family: str) -> None:
    layer_norm = family in ("gpt2", "gpt_neox", "opt")
    dense, sliced = (
        norm_inputs(models[family]),
        norm_inputs(slicegpt.slice_stream(models[family], token_ids(), 15).model),
    )
    assert (
        len(sliced) == 5
    )  # two norms in each of two blocks, and the final one behind the unsliced last output
    for x in sliced[:4]:
        assert torch.linalg.matrix_rank(x) == 15
        if layer_norm:
            torch.testing.assert_close(x.mean(1), torch.zeros(len(x), dtype=x.dtype), rtol=0, atol=1e-9)
    before = dense[0] - dense[0].mean(1, keepdim=True) if layer_norm else dense[0]
    lost = (before - sliced[0]).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(before)[15:].square().sum())


def test_sliced_sizes_are_counted_with_their_adapters(models: dict[str, Any]) -> None:
    # Llama: hidden 24, 4 heads and 2 kv heads of 8, MLP 40, two blocks; the last block writes the full width.
    k = 15
    reads = (32 + 16 + 16) * k + 2 * 40 * k
    first = reads + 32 * k + 40 * k + k * k + k * k
    last = reads + 32 * k + 40 * 24 + k * k + k * 24
    assert slicegpt.sliced_count(Work(models["llama"]), k, parallel=False) == first + last


def test_norms_over_whole_heads_and_of_branches_leave_the_matrices_to_factors() -> None:
    model, windows = tiny("gemma3_text"), token_ids()
    for method in ("svd", "asvd", "svd_llm", "svd_llm_v2", "kfac_svd", "lems", "zs_svd", "palu", "clover"):
        small, accounting = ALL[method](model, windows, 0.75)
        share = "kv_elements_per_token" if method in KV_PEERS else "block_params"
        assert getattr(accounting, share) <= 0.75 * getattr(accounting, f"dense_{share}")
        assert 1e-4 < (logits(small) - logits(model)).abs().max() < 100
    for method in ("magnitude", "wanda", "modegpt_uniform"):
        with pytest.raises(ValueError, match="normed over whole heads"):
            PEERS[method](model, windows, 0.75)
    with pytest.raises(ValueError, match="normed before"):
        PEERS["slicegpt"](model, windows, 0.75)


def test_other_families_are_named() -> None:
    class Stranger:
        class config:
            model_type = "bloom"

    with pytest.raises(ValueError, match="no view of 'bloom'"):
        blocks(Stranger())
