"""The two models that the benchmarks train: their sizes, that a seed repeats them, that what is there is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.train_small import NAMES, batches, build, train, trained
from solvers.families import FAMILIES

VOCAB = 2048


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_the_training(name: str) -> None:
    stream = np.random.default_rng(0).integers(VOCAB, size=20_000)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build(name, VOCAB)
        losses.append(train(model, batches(stream, 0), 2))
    assert losses[0] == losses[1]
    assert 0 < losses[0] < 12
    assert model.config.model_type in FAMILIES
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 1_500_000


def test_every_pass_cuts_the_text_elsewhere() -> None:
    source = batches(np.arange(256 * 8 + 300), 0)
    first, second = next(source), next(source)
    assert first.shape == (8, 257)
    assert torch.equal(first - first[:, :1], torch.arange(257).expand(8, -1))
    assert set(first[:, 0].tolist()).isdisjoint(second[:, 0].tolist())


def test_a_trained_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / NAMES[0]
    folder.mkdir()
    case = trained(NAMES[0], tmp_path)
    assert (case.folder, case.evaluation) == (folder, folder / "evaluation.txt")
    assert list(folder.iterdir()) == []
