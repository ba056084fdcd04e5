"""Healing keeps shapes, moves nothing outside the blocks, helps on text it has not seen, and never stops half way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from solvers.healing.distance import Halves
from solvers.healing.heal import heal, trained_parameters
from solvers.healing.heal_state import HealState
from tests.composition.conftest import Compact, compact, kl_nats

STEPS = 15


@pytest.fixture(scope="module")
def cut60(tmp_path_factory: pytest.TempPathFactory) -> Compact:
    """A trained model at 60 % of its block parameters: bad enough for a few short steps to show."""
    return compact("pylm-llama", tmp_path_factory.mktemp("cut60"), block_params="0.6")


def short(windows: torch.Tensor) -> torch.Tensor:
    return windows[:, :64]


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def healed(cut60: Compact, steps: int = STEPS, **options: Any) -> tuple[Any, Any]:
    """A freshly loaded compact model after healing, and the record."""
    model = cut60.load()
    windows = short(cut60.cut.calibration.fit(64))
    return model, heal(Halves(cut60.cut.dense), model, windows, steps=steps, **options)


def test_healing_lowers_kl_on_held_out_text_and_moves_blocks_alone(cut60: Compact) -> None:
    plain, held_out = cut60.load(), short(cut60.held_out)
    seen: list[tuple[int, int, float]] = []
    model, record = healed(cut60, on_step=lambda *step: seen.append(step))
    assert kl_nats(cut60.cut.dense, model, held_out) < 0.9 * kl_nats(cut60.cut.dense, plain, held_out)
    assert [step[:2] for step in seen] == [(done, STEPS) for done in range(1, STEPS + 1)]
    judged = short(cut60.cut.calibration.fit(64))[:8]
    assert record.first_kl == pytest.approx(kl_nats(cut60.cut.dense, plain, judged), rel=1e-4)
    assert record.last_kl == pytest.approx(kl_nats(cut60.cut.dense, model, judged), rel=1e-4)
    assert (record.steps, record.kept_step) == (STEPS, STEPS)

    before, after = state(plain), state(model)
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert model.lm_head.weight.grad is None
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights(cut60: Compact) -> None:
    one, other, third = (healed(cut60, 4, seed=seed)[0] for seed in (3, 3, 4))
    assert same(state(one), state(other))
    assert not same(state(one), state(third))


def test_a_healing_goes_on_from_any_of_its_checks(cut60: Compact, tmp_path: Path) -> None:
    """As read from files: the same weights to the bit, the same record of checks, whichever weights are kept."""
    text = cut60.cut.calibration
    options = {"validation": short(text.windows[text.windows.shape[0] // 2 :][:4]), "learning_rate": 0.02}
    states: list[Path] = []

    def save(state: HealState) -> None:
        states.append(tmp_path / str(state.step))
        states[-1].mkdir()
        state.save(states[-1])

    whole, record = healed(cut60, 6, on_check=save, **options)
    assert [int(folder.name) for folder in states] == [1, 2, 3, 4, 5]
    for folder in states:
        done: list[int] = []
        model, again = healed(
            cut60,
            6,
            resumed=HealState.load(folder),
            on_step=lambda step, *_, done=done: done.append(step),
            **options,
        )
        assert done == list(range(int(folder.name) + 1, 7))
        assert same(state(model), state(whole))
        assert (again.checks, again.kept_step) == (record.checks, record.kept_step)
        assert again.seconds > HealState.load(folder).seconds


def test_raising_from_on_step_leaves_the_model_as_it_was(cut60: Compact) -> None:
    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int, loss: float) -> None:
        assert loss > 0
        if done == 5:
            raise Cancelled

    model = cut60.load().train()
    before = state(model)
    with pytest.raises(Cancelled):
        heal(
            Halves(cut60.cut.dense), model, short(cut60.cut.calibration.fit(16)), steps=STEPS, on_step=cancel
        )
    assert same(before, state(model))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_validation_keeps_the_best_weights(cut60: Compact) -> None:
    """Trained far too long on one window, the last weights are the worst; the record says which were kept."""
    text = cut60.cut.calibration
    validation = short(text.windows[text.windows.shape[0] // 2 :][:8])
    losses = {}
    for name, options in (("last", {}), ("kept", {"validation": validation})):
        model = cut60.load()
        record = heal(
            Halves(cut60.cut.dense),
            model,
            short(text.fit(1)),
            steps=20,
            learning_rate=0.03,
            batch_windows=1,
            **options,
        )
        losses[name] = kl_nats(cut60.cut.dense, model, validation)
        if name == "kept":
            assert record.kept_step < 20
            assert record.last_kl == pytest.approx(losses["kept"], rel=1e-4)
            assert record.last_kl <= record.first_kl
    assert losses["kept"] < losses["last"]


def test_what_cannot_be_healed_is_refused(cut60: Compact) -> None:
    model, windows = cut60.load(), short(cut60.held_out)
    before = state(model)
    with pytest.raises(ValueError, match="needs steps, windows and a batch"):
        heal(Halves(cut60.cut.dense), model, windows, steps=0)
    with pytest.raises(ValueError, match="needs steps, windows and a batch"):
        heal(Halves(cut60.cut.dense), model, windows[:0], steps=1)
    with pytest.raises(ValueError, match="diverged at step"):
        heal(Halves(cut60.cut.dense), model, windows, steps=8, learning_rate=1e20)
    assert same(before, state(model))
    with pytest.raises(ValueError, match="load with dtype"):
        heal(Halves(cut60.cut.dense), model.bfloat16(), windows, steps=1)


def test_gpt2_blocks_are_found_with_their_biases(tmp_path: Any) -> None:
    made = compact("pylm-gpt2", tmp_path, block_params="0.6")
    model = made.load()
    plain, held_out = made.load(), short(made.held_out)
    assert len(trained_parameters(model)) == 2 * 6 * model.config.num_hidden_layers
    heal(Halves(made.cut.dense), model, short(made.cut.calibration.fit(64)), steps=STEPS)
    assert kl_nats(made.cut.dense, model, held_out) < 0.9 * kl_nats(made.cut.dense, plain, held_out)
    norms_and_embeddings = [name for name in state(plain) if "proj" not in name]
    assert all(torch.equal(state(plain)[name], state(model)[name]) for name in norms_and_embeddings)
