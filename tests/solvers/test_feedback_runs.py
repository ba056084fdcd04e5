"""Error feedback as a run: what it tells, when it ends, where it goes on, what it holds and leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from solvers.a3 import feedback
from solvers.a3.feedback import LayerRecord, compress_with_feedback
from solvers.a3.ridge import Refit
from solvers.checkpoints.writing import stored
from solvers.model.inside import attended, run_layer
from solvers.model.surgery import open_model
from solvers.modeling_rankalloc import MixedRankAttention
from solvers.weights import LayerWeights
from tests.support.models import CASES, case_id, tiny, token_ids
from tests.support.one_shot import one_shot

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
FAMILIES = [("llama", {"kv_heads": 2}), ("gpt2", {})]


@pytest.mark.parametrize(("family", "passes"), [("llama", 4), ("gpt2", 4), ("mixtral", 3)])
def test_every_pass_of_every_batch_is_told_of(family: str, passes: int) -> None:
    """The dense stream's, o_proj's, down_proj's where there is one, the compressed stream's; before a cut only the first."""
    kinds = {"layer_types": ["full_attention"] * 3} if family == "llama" else {}
    opened, ids = open_model(tiny(family, num_hidden_layers=3, **kinds)), token_ids(12, 20)
    cuts = one_shot(opened, ids, ov=3)
    cuts[0] = opened.source[0].to(dtype=torch.float64)
    told: list[str] = []
    compress_with_feedback(
        opened,
        ids,
        lambda index: cuts[index],
        lambda done, total: told.append(f"{done} of {total}"),
        on_pass=lambda: told.append("pass"),
    )
    batches, refitted = ["pass"] * 2, ["pass"] * 2 * passes
    assert told == [*batches, "1 of 3", *refitted, "2 of 3", *refitted, "3 of 3"]


@every_family
def test_each_stream_attends_once_in_a_layer(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, ids = open_model(tiny(family, **options)), token_ids(12, 20)
    cuts, layers = one_shot(opened, ids, ov=3), []
    prepared = MixedRankAttention.prepared

    def counted(attention: Any, *args: Any) -> Any:
        layers.append(attention.layer_idx)
        return prepared(attention, *args)

    monkeypatch.setattr(MixedRankAttention, "prepared", counted)
    compress_with_feedback(opened, ids, lambda index: cuts[index])
    assert sorted(layers) == [0] * 4 + [1] * 4, "two streams of two batches"


@every_family
def test_attention_that_is_not_run_again_puts_out_what_it_did(family: str, options: dict[str, Any]) -> None:
    opened, ids = open_model(tiny(family, **options)), token_ids(2, 20)
    hidden, calls = opened.start(ids)
    with torch.no_grad():
        once = run_layer(opened, 0, hidden, calls[0])
        with attended(opened, 0, once["z"]):
            again = run_layer(opened, 0, hidden, calls[0])
        with attended(opened, 0, torch.full_like(once["z"], torch.nan)):
            assert run_layer(opened, 0, hidden, calls[0])["out"].isnan().all()
        afterwards = run_layer(opened, 0, hidden, calls[0])
    for name in ("attention", "x", "mlp", "out"):
        assert (name in again) == (name in once)
        for other in (again, afterwards):
            assert name not in once or torch.equal(other[name], once[name]), name


IDLE, O_GAINED, DOWN_GAINED, UNTOUCHED = (0.999, 1.0), (0.997, 1.0), (1.0, 0.997), None


@pytest.mark.parametrize(
    ("ratios", "goes_on"),
    [
        ([], True),
        ([UNTOUCHED] * 5, True),
        ([IDLE] * 3, True),
        ([IDLE] * 4, False),
        ([(0.999, None)] * 4, False),  # without an MLP that is ours
        ([O_GAINED, IDLE, IDLE, IDLE], True),
        ([DOWN_GAINED, IDLE, IDLE, IDLE], True),
        ([DOWN_GAINED, IDLE, IDLE, IDLE, IDLE], False),
        ([IDLE, IDLE, IDLE, O_GAINED, IDLE], True),
        ([IDLE, IDLE, IDLE, DOWN_GAINED], True),
        ([UNTOUCHED, IDLE, IDLE, IDLE], True),
        ([IDLE, IDLE, UNTOUCHED, IDLE, IDLE], False),
    ],
)
def test_four_layers_in_a_row_that_gain_less_than_a_five_hundredth_end_it(
    ratios: list[tuple[float, float | None] | None], goes_on: bool
) -> None:
    opened, ids, last = open_model(tiny("gpt2", num_hidden_layers=6)), token_ids(2, 10), len(ratios)
    whole, finished = [layer.to(dtype=torch.float64) for layer in opened.source], []
    cut = replace(whole[last], up_Dm=whole[last].up_Dm[:, :9], down_mD=whole[last].down_mD[:9])
    cut = replace(cut, up_bias_m=whole[last].up_bias_m[:9])
    for index, ratio in enumerate(ratios):
        refits = [share and Refit(0.1, share) for share in ratio or (None, None)]
        finished.append((whole[index], LayerRecord(index, *refits)))
    passes: list[None] = []
    layers, records = compress_with_feedback(
        opened,
        ids,
        lambda index: cut if index == last else whole[index],
        finished=finished,
        on_pass=lambda: passes.append(None),
    )
    assert records[:last] == [record for _, record in finished]
    assert (records[last].o_proj is not None, layers[last] is not cut, bool(passes)) == (goes_on,) * 3


def test_what_is_kept_is_what_comes_back_and_streams_run_on_what_was_solved() -> None:
    opened, ids = open_model(tiny("llama")), token_ids(16, 20)
    cuts, seen = one_shot(opened, ids, ov=3, mlp=20), []
    plain, expected = compress_with_feedback(opened, ids, lambda index: cuts[index])

    def keep(weights: LayerWeights, record: LayerRecord) -> LayerWeights:
        seen.append((weights, record))
        return opened.source[record.layer]

    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index], keep=keep)
    assert all(layer is source for layer, source in zip(layers, opened.source, strict=True))
    assert records == expected == [record for _, record in seen]
    assert _same([weights for weights, _ in seen], plain)


def _stored(weights: LayerWeights, dtype: torch.dtype) -> LayerWeights:
    """As a job stores it: what solving left in float64 in the type that the model runs in."""
    narrower = {name: t.to(dtype) for name, t in weights.tensors().items() if t.dtype == torch.float64}
    return replace(weights, **narrower)


def _same(one: list[LayerWeights], two: list[LayerWeights]) -> bool:
    return all(
        torch.equal(tensor, other.tensors()[name])
        for each, other in zip(one, two, strict=True)
        for name, tensor in each.tensors().items()
    )


@pytest.mark.parametrize("coarse", [False, True], ids=["as stored", "held in bits"])
@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_a_run_that_goes_on_behind_finished_layers_is_one_run_to_the_last_bit(
    family: str, options: dict[str, Any], coarse: bool
) -> None:
    """A model in bfloat16, which runs in float32; wherever it was interrupted no finished layer is solved again."""
    layers, kinds = 5, {"layer_types": ["full_attention"] * 5} if family == "llama" else {}
    opened = open_model(tiny(family, **options, num_hidden_layers=layers, **kinds).to(torch.bfloat16))
    ids = token_ids(16, 30)
    cuts = one_shot(opened, ids, qk=4, ov=3, mlp=20)
    for uncut in (0, 1, 3):
        cuts[uncut] = opened.source[uncut].to(dtype=torch.float64)

    def held(index: int, weights: LayerWeights) -> LayerWeights:
        return stored(weights, torch.bfloat16) if coarse and index > 1 else weights

    whole, records = compress_with_feedback(opened, ids, lambda index: cuts[index], held=held)
    assert [record.o_proj is not None for record in records] == [False, False, True, True, True]
    final = [weights.to(dtype=torch.bfloat16) for weights in whole]
    for done in range(layers + 1):
        solved, told, passes = [], [], []

        def solve(index: int, solved: list[int] = solved) -> LayerWeights:
            solved.append(index)
            return cuts[index]

        again, found = compress_with_feedback(
            opened,
            ids,
            solve,
            lambda *at, told=told: told.append(at),
            finished=[
                (_stored(weights, opened.model.dtype), LayerRecord.from_document(record.document()))
                for weights, record in zip(whole[:done], records, strict=False)
            ],
            held=held,
            on_pass=lambda at=passes: at.append(None),
        )
        assert bool(passes) == (done < layers), "nothing runs where nothing is left"
        assert solved == list(range(done, layers))
        assert found == records
        assert _same([weights.to(dtype=torch.bfloat16) for weights in again], final), done
        assert told == [(at, layers) for at in range(max(done, 1), layers + 1)], (
            "progress starts where work does"
        )


def test_feedback_that_has_stopped_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience counts over the layers of both runs, and no stream runs where none is needed."""
    monkeypatch.setattr(feedback, "PATIENCE", 2)
    monkeypatch.setattr(feedback, "LEAST_GAIN", 1.0)  # nothing gains so much
    opened, ids = open_model(tiny("gpt2", num_hidden_layers=5)), token_ids(16, 30)
    cuts = one_shot(opened, ids, mlp=20)
    whole, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    assert [record.o_proj is not None for record in records] == [True, True, False, False, False]
    assert [record.layer for record in records] == list(range(5))
    for done in (1, 2, 4, 5):
        finished = list(zip(whole[:done], records[:done], strict=True))
        passes: list[None] = []
        again, found = compress_with_feedback(
            opened,
            ids,
            lambda index: cuts[index],
            finished=finished,
            on_pass=lambda at=passes: at.append(None),
        )
        assert found == records
        assert _same(again, whole)
        assert bool(passes) == (done < 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_by_way_of_float32_is_rounding(dtype: torch.dtype) -> None:
    """Layers are stored as float32 before they get the checkpoint's type; what lies midway between two values could differ."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4096, generator=generator, dtype=torch.float64).to(dtype).double()
    between = values * (1 + torch.finfo(dtype).eps / 2)
    near = torch.cat(
        [between, *(between * (1 + sign * 2.0**-power) for sign in (-1, 1) for power in (26, 40, 52))]
    )
    assert torch.equal(near.to(dtype), near.float().to(dtype))


def test_no_finished_layer_stays_in_memory() -> None:
    model = tiny("gpt2", num_hidden_layers=5).float()
    opened, ids = open_model(model, memory_bytes=1), token_ids(16, 20)
    cuts, most = one_shot(opened, ids, mlp=20), [0]

    def look(*at: int) -> None:
        layers = opened.family.layers(opened.model)
        most[0] = max(most[0], sum(not layer.attn.o_proj.weight.is_meta for layer in layers))

    layers, records = compress_with_feedback(opened, ids, lambda index: cuts[index], look, on_pass=look)
    finished = list(zip(layers, records, strict=True))[:3]
    compress_with_feedback(opened, ids, lambda index: cuts[index], look, finished=finished, on_pass=look)
    assert most == [2]


def test_layers_that_were_changed_before_are_dense_to_it() -> None:
    opened, ids = open_model(tiny("llama")), token_ids(16, 20)
    cuts = one_shot(opened, ids, mlp=20)
    expected, records = compress_with_feedback(opened, ids, lambda index: cuts[index])
    for done in (0, 1):
        for index, cut in enumerate(cuts):
            opened.put(index, cut)
        finished = list(zip(expected[:done], records[:done], strict=True))
        layers, found = compress_with_feedback(opened, ids, lambda index: cuts[index], finished=finished)
        assert found == records
        assert _same(layers, expected)


def test_the_model_is_dense_again_afterwards_even_when_interrupted() -> None:
    """After a layer, or after any pass of the second: its dense stream, o_proj's, down_proj's, the compressed stream."""
    opened, ids = open_model(tiny("llama")), token_ids(16, 20)
    with torch.no_grad():
        expected = opened.model(ids).logits
    cuts, left = one_shot(opened, ids, mlp=20), [0]

    def stop(*at: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    for calls, options in ((1, {"on_layer": stop}), *((8 + n, {"on_pass": stop}) for n in range(1, 9))):
        left[0] = calls
        with pytest.raises(KeyboardInterrupt):
            compress_with_feedback(opened, ids, lambda index: cuts[index], **options)
        with torch.no_grad():
            assert torch.allclose(opened.model(ids).logits, expected, atol=1e-12)
    assert not opened.attention(1).o_proj._forward_hooks
