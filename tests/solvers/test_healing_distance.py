"""KL and its gradients from a few tokens' logits at a time are those of whole models, by the definition in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from solvers.healing import distance
from solvers.healing.distance import Halves, backward, mean_kl
from tests.support.models import CASES, case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)


def apart(family: str, options: dict[str, Any]) -> tuple[Any, Any, torch.Tensor]:
    """A teacher, a student whose layers differ from it, and token ids (3, 20)."""
    teacher = tiny(family, **options)
    student = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(3)
    head = student.get_output_embeddings().weight
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter is not head:  # tied or not, the vocabulary is not trained
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return teacher, student.eval(), token_ids(3, 20)


def literal(teacher: Any, student: Any, ids: torch.Tensor) -> torch.Tensor:
    p, q = (model(ids).logits.double().log_softmax(-1) for model in (teacher, student))
    return (p.exp() * (p - q)).sum(-1).mean()


@every_family
def test_two_halves_are_the_model(family: str, options: dict[str, Any]) -> None:
    model, ids = tiny(family, **options), token_ids(2, 20)
    with torch.no_grad():
        halves = Halves(model)
        torch.testing.assert_close(halves.head(halves.states(ids)), model(ids).logits)


@pytest.mark.parametrize(("window_parts", "tokens"), [(3, 7), (1, 60)])
@every_family
def test_gradients_are_those_of_the_whole(
    family: str, options: dict[str, Any], window_parts: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether windows go alone and the logits of seven tokens are there at once, or all go together."""
    teacher, student, ids = apart(family, options)
    monkeypatch.setattr(distance, "_has_bfloat16", lambda device: False)
    monkeypatch.setattr(distance, "_LEAST_TOKENS", tokens)
    monkeypatch.setattr(distance, "_LOGITS_LIMIT_BYTES", 0)
    if window_parts > 1:
        monkeypatch.setattr(distance, "_ACTIVATIONS_LIMIT_BYTES", 0)
    assert len(distance.parts(student, ids)) == window_parts
    for parameter in student.get_output_embeddings().parameters():
        parameter.requires_grad_(False)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(literal(teacher, student, ids), trained, allow_unused=True)

    loss = backward(Halves(teacher), student, ids)
    with torch.no_grad():
        kl = float(literal(teacher, student, ids))
    assert loss == pytest.approx(kl, rel=1e-4)
    assert mean_kl(Halves(teacher), student, ids, 2) == pytest.approx(kl, rel=1e-4)
    for parameter, gradient in zip(trained, expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            least = 1e-9 + 1e-4 * float(gradient.abs().max())  # a bias of keys has none but rounding's
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=least)


def test_a_slice_has_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tokens as the limit has logits for, sixty-four where the vocabulary is larger than that."""
    model = tiny("llama")
    for vocab, most in ((61, 275_036), (49_152, 341), (262_144, 64), (2_000_000, 64)):
        monkeypatch.setattr(model.config, "vocab_size", vocab)
        slices = list(distance.slices(model, 300_000))
        assert max(part.stop - part.start for part in slices) == most
        assert [part.stop for part in slices] == [*(part.start for part in slices[1:]), 300_000]
