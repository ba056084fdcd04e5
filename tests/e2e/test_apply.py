"""A stored plan applied: the checkpoint of the job that made it, without its profile; refused where it does not belong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from allocator.stages.request import Request
from allocator.stages.stored_plan import resolved_request
from allocator.store.plan_views import lineage
from tests.e2e.test_profiles import fine_tuned
from tests.support import damage
from tests.support.command import run
from tests.support.homes import BUDGETS, WINDOW, Home, opened_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with opened_home(tmp_path_factory.mktemp("applied") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.brief(tmp_path_factory.mktemp("profiled"), window=WINDOW, calibration=12_000, layers=3)


def test_a_plan_file_makes_the_same_checkpoint_elsewhere_without_a_profile(
    home: Home,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = home.run(model, "compress", effort="fast", budgets=BUDGETS, refine=0)
    written = home.settings.artifacts_dir / made.id
    there, out = tmp_path / "there", tmp_path / "out"
    monkeypatch.setenv("RANKALLOC_THREADS", "1")
    code, printed, err = run(
        capsys, monkeypatch, there, "apply", written / "plan.json", model, "--out", out, "--effort", "fast",
        "--export", "compact", "--baselines", "none", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "applying stored plan" in err
    report, first = json.loads(printed), json.loads((written / "report.json").read_text())
    assert report["plan"]["digest"] == first["plan"]["digest"] == made.plan_digest
    assert "uniform" in first
    assert not {"uniform", "uniform_kind", "uniform_a3"} & report.keys()
    assert report["plan"]["measured_loss_nats"] == first["plan"]["measured_loss_nats"]
    theirs = load_file(written / "compact" / "model.safetensors")
    for name, tensor in load_file(out / "compact" / "model.safetensors").items():
        assert torch.equal(tensor, theirs[name]), name
    assert sorted(path.name for path in out.iterdir()) == [
        "compact",
        "plan.json",
        "report.html",
        "report.json",
    ]
    with opened_home(there) as elsewhere:
        assert elsewhere.store.profiles.find("default").items == []
        found = lineage(elsewhere.store, "default", report["plan"]["digest"])
    assert found["profile"]["origin"] == "missing"
    (job,) = found["applied_by"]
    assert [each["name"] for each in job["checkpoints"]] == ["compact"]
    assert job["measured"]["measured_loss_nats"] == first["plan"]["measured_loss_nats"]

    changed = json.loads((written / "plan.json").read_text())
    changed["ranks"][0]["mlp"] = changed["ranks"][1]["mlp"]
    changed["ranks"][1]["mlp"] = 2
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    code, _, err = run(
        capsys, monkeypatch, there, "apply", tmp_path / "changed.json", model, "--out", tmp_path / "x"
    )
    assert (code, "its content is not what its digest names" in err) == (2, True)
    assert not (tmp_path / "x").exists()


def test_other_weights_and_other_shapes_are_refused_and_a_transfer_makes_a_plan_for_a_fine_tune(
    home: Home,
    model: Path,
    tmp_path: Path,
) -> None:
    planned = home.run(model, "plan", effort="fast", budgets=BUDGETS)
    assert planned.plan_digest is not None

    def apply(folder: Path, plan: str) -> Any:
        request = {"model": f"path:{folder}", "plan": plan, "effort": "fast", "export": ["compact"]}
        document = resolved_request(home.store, "default", Request.stored("compress", request)).document
        del document["model"]
        return home.run(folder, "compress", **document)

    tuned = fine_tuned(model, tmp_path, steps=12)
    with pytest.raises(AssertionError, match="rankalloc transfer"):
        apply(tuned, planned.plan_digest)
    small = tmp_path / "small"
    small.mkdir()
    cut = damage.brief(small, window=WINDOW, calibration=12_000, layers=2)
    with pytest.raises(AssertionError, match=r"another geometry.*layers 2 instead of 3"):
        apply(cut, planned.plan_digest)

    job = home.run(tuned, "transfer", profile=planned.profile_key, plan=planned.plan_digest)
    assert job.plan_digest not in (None, planned.plan_digest)
    new, old = (home.store.plans.get("default", str(d)) for d in (job.plan_digest, planned.plan_digest))
    assert new.ranks == old.ranks
    assert new.model.weights_sha256 == job.weights_sha256 != old.model.weights_sha256
    found = lineage(home.store, "default", new.digest)
    assert found["derived_from"] == {"plan": old.digest, "how": "transferred"}
    done = apply(tuned, new.digest)
    assert done.plan_digest == new.digest
    report = json.loads((home.settings.artifacts_dir / done.id / "report.json").read_text())
    assert report["plan"]["ranks"] == old.chosen.layers()
    predicted, measured = (report["plan"][f"{name}_loss_nats"] for name in ("predicted", "measured"))
    assert 0.2 < predicted / measured < 5, "scaled to the fine-tune"

    # The same weights under another name need no plan of their own.
    again = home.run(model, "transfer", profile=planned.profile_key, plan=planned.plan_digest)
    assert again.plan_digest == planned.plan_digest
