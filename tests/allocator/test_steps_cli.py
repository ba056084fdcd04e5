"""``rankalloc plan`` and ``clean`` on a store filled by hand; ``transfer`` is tested with models in tests/e2e."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.profiling.artifacts import publish_folder, published_folders
from allocator.store import Store
from allocator.store.plans import Plans
from allocator.store.profiles import Profiles
from api.cli.delivery import checked_out, deliver
from tests.support import damage
from tests.support.profiles import quantized_profile
from tests.support.teams import add_member

Run = Callable[..., tuple[int, str, str]]
BUDGETS = ["block_params=0.7", "kv_bytes_per_token=0.6"]


def budgets(*more: str) -> list[str]:
    return [part for budget in BUDGETS for part in ("--budget", budget)] + list(more)


def test_a_plan_is_solved_stored_and_shown(run: Run, store: Store, profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, out, err = run(
        "plan", profile.key[:8], *budgets("--align", "mlp=8", "--tie", "ov", "--out", str(file))
    )
    assert (code, err) == (0, "")
    wanted = plan_from_profile(profile, BUDGETS, constraints={"align": ["mlp=8"], "tie": ["ov"]})
    assert wanted.digest in out
    assert store.plans.get("default", wanted.digest).ranks == wanted.ranks
    assert json.loads(file.read_text())["digest"] == wanted.digest
    assert f"{wanted.predicted.loss_nats:.4f}" in out
    for budget in wanted.budgets:
        assert budget.text in out
        assert f"{budget.used:,}" in out
    assert max(map(len, out.splitlines())) <= 80
    _, out, _ = run("plan", profile.key, *budgets("--json"))
    assert json.loads(out)["digest"] == plan_from_profile(profile, BUDGETS).digest


def test_commands_read_no_document_twice(
    run: Run, store: Store, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    for repository in (Profiles, Plans):

        def counted(self: Any, *names: Any, read: Any = repository.document, **options: Any) -> Any:
            reads[type(self).__name__] += 1
            return read(self, *names, **options)

        monkeypatch.setattr(repository, "document", counted)
    add_member(store, "others", "bob")
    code, out, _ = run("plan", profile.key[:8], *budgets("--explain", "--json"))
    assert code == 0
    assert reads == {"Profiles": 1}
    reads.clear()
    digest = json.loads(out)["digest"]
    for command in ("share", "unshare"):
        assert run("plans", command, digest[:8], "others")[0] == 0
        assert run("profiles", command, profile.key[:8], "others")[0] == 0
    assert not reads
    store.aliases.set("default", "prod", digest, by="me", expected=None)
    assert run("plans", "share", "alias:prod", "others")[0] == 0
    assert [share.key for share in store.shares.find("default").items] == [digest]
    assert run("plans", "share", "0" * 64, "others")[0] == 2


def test_what_a_budget_was_taken_for_is_shown(run: Run, profile: Profile) -> None:
    code, out, err = run(
        "plan", profile.key, "--budget", "memory=1_000KB@context=1k", "--budget", "params=95%"
    )
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    assert "memory@batch=1,context=1024 <= 1,000,000 bytes (1 MB = 976.562 KiB)" in shown
    assert "(95 % of " in shown


def test_folders_above_what_is_written_are_made(run: Run, profile: Profile, tmp_path: Path) -> None:
    plan, exported, picture = (tmp_path / name / "b" / "c.svg" for name in "xyz")
    assert run("plan", profile.key, *budgets("--out", str(plan)))[0] == 0
    assert json.loads(plan.read_text())["budgets"]
    assert run("profiles", "export", profile.key, "--out", str(exported))[0] == 0
    assert exported.stat().st_size
    metric = ["--metric", "params", "--points", "2"]
    assert run("frontier", profile.key, *metric, "--out", str(picture))[0] == 0
    assert "<svg" in picture.read_text()
    for name in ("compress", "apply"):
        arguments = ("compress", str(tmp_path)) if name == "compress" else ("apply", "0" * 64, str(tmp_path))
        budget = ("--budget", "params=0.5") if name == "compress" else ()
        code, _, err = run(*arguments, *budget, "--out", str(plan / "below"))
        assert code == 2
        assert f"--out: {plan} is a file; name a place below another folder" in " ".join(err.split())


def test_a_checkpoint_is_delivered_below_folders_that_there_are_not(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "compact").mkdir(parents=True)
    (tmp_path / "artifacts" / "compact" / "config.json").write_text("{}")
    out = checked_out(tmp_path / "a" / "b" / "c")
    assert not out.parent.exists(), "nothing is written before there is something to write"
    deliver(tmp_path / "artifacts", out, ["compact"])
    assert (out / "compact" / "config.json").read_text() == "{}"
    assert [path.name for path in out.parent.iterdir()] == ["c"]


def test_a_full_disk_is_told_in_one_line_that_says_where_the_files_are(tmp_path: Path) -> None:
    """The kernel refuses to let a file grow, as it refuses where the disk is full."""
    artifacts, out = tmp_path / "artifacts", tmp_path / "out"
    (artifacts / "compact").mkdir(parents=True)
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (artifacts / "compact" / name).write_bytes(b"0" * 100_000)
    script = f"""
import resource
from pathlib import Path
from api.cli.delivery import deliver, write_file
from allocator.base.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for write in (
    lambda: deliver(Path({str(artifacts)!r}), Path({str(out)!r}), ["compact"]),
    lambda: write_file(Path({str(out)!r}) / "plan.json", "0" * 60_000),
):
    try:
        write()
    except StorageFull as error:
        print(error.detail)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"--out: there is no room for the 200,000 bytes of {out} (File too large); ")
    assert f"copy the finished files from {artifacts}, or run it again: nothing is measured twice" in first
    assert second.startswith(f"--out: there is no room for the 60,000 bytes of {out / 'plan.json'} (")
    assert not list(tmp_path.glob("**/.*")), "half a checkpoint is left behind"
    assert not (out / "plan.json").exists()


def test_bits_are_shown_behind_ranks_and_can_be_left_out(run: Run, store: Store) -> None:
    found = quantized_profile()
    store.profiles.put("default", found)
    budget = ["--budget", "memory=0.45@context=64"]
    code, out, err = run("plan", found.key, *budget)
    assert (code, err) == (0, "")
    assert "ranks @bits" in out
    assert "uniform bits" in out
    assert " @4 " in out
    assert max(map(len, out.splitlines())) <= 80
    _, out, _ = run("plan", found.key, *budget, "--bits", "8", "--json")
    assert json.loads(out)["bits"] == [8]
    code, out, _ = run("plan", found.key, "--budget", "memory=0.8@context=64", "--bits", "none", "--json")
    assert code == 0
    assert "bits" not in json.loads(out)
    for given in ("3", "8,", "4 8", ""):
        code, _, err = run("plan", found.key, *budget, "--bits", given)
        assert code == 2
        assert "is not 8, 4 or both separated by a comma" in " ".join(err.split())


@pytest.mark.parametrize("bits", [None, "none", "8", "8,4"])
def test_the_command_leaves_refinement_to_the_job(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: str | None
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("api.cli.running.run", lambda settings, request, out, **_: asked.append(request))
    options = [] if bits is None else ["--bits", bits]
    code, _, err = run("compress", str(tmp_path), "--budget", "memory=0.5@context=64", "--out", "x", *options)
    assert (code, err) == (0, "")
    assert [request["refine"] for request in asked] == [None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--refine", "4"), "refine: 4; with bits it must be 0"),
        (("--heal", "4"), "heal: 4; with bits it must be 0"),
        (("--budget", "params=0.5"), "bits: 8,4 works only beside a budget on memory"),
    ],
)
def test_what_does_not_go_with_bits_is_refused_before_anything_is_read(
    run: Run, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    budget = () if "--budget" in options else ("--budget", "memory=0.5@context=64")
    out = str(tmp_path / "out")
    code, _, err = run("compress", str(tmp_path), "--out", out, "--bits", "8,4", *budget, *options)
    assert code == 2
    assert said in " ".join(err.split())


def test_the_least_cache_at_a_loss(run: Run, profile: Profile) -> None:
    code, out, _ = run("plan", profile.key, "--least", "kv_bytes_per_token", "--max-loss", "0.05", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["predicted"]["loss_nats"] <= 0.05
    assert plan["budgets"][0]["used"] < plan["dense"]["kv_bytes_per_token"]
    code, _, err = run("plan", profile.key, "--least", "kv_bytes_per_token")
    assert (code, "max_loss_nats" in err) == (2, True)


def test_every_component_s_rank_is_explained(run: Run, profile: Profile) -> None:
    _, out, _ = run("plan", profile.key, *budgets("--explain", "--pin", "0.qk=8"))
    assert "layer 0 qk: 8: it may take no other rank" in out
    assert sum("a step down to" in line or "a step up to" in line for line in out.splitlines()) == 5
    _, out, _ = run("plan", profile.key, *budgets("--explain", "--json"))
    assert len(json.loads(out)["explanation"]["components"]) == 6


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--pin", "0.qk=3"], 2, "layer 0 qk may take 2, 4, "),
        (["--align", "8.5"], 2, "a whole number from 1"),
        (["--min-rank", "qkv=2"], 2, "qk, ov, mlp"),
        (["--budget", "params=0.01"], 3, "is the least that any ranks reach"),
        (["--budget", "money=1"], 2, "money"),
    ],
)
def test_what_cannot_be_planned_is_said_and_nothing_stored(
    run: Run, store: Store, profile: Profile, more: list[str], code: int, said: str
) -> None:
    found, out, err = run("plan", profile.key, *budgets(*more))
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())
    assert store.plans.find("default").items == []


def test_a_file_is_never_overwritten(run: Run, profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("mine")
    code, _, err = run("plan", profile.key, *budgets("--out", str(file)))
    assert code == 2
    assert "name a new file" in err
    assert file.read_text() == "mine"


def test_clean_says_what_goes_and_removes_it(run: Run, store: Store, settings: Settings) -> None:
    settings.prepare_home()
    for name, days in (("old", 400), ("new", 0)):
        source = settings.tmp_dir / name
        source.mkdir()
        (source / "layer-0.safetensors").write_bytes(b"0" * 1000)
        publish_folder(source, settings.moments_dir / name)
        damage.age(settings.moments_dir / name, days=days)
    _, out, _ = run("clean", "--dry-run")
    assert out.startswith("1 folders")
    assert "would be removed" in out
    assert len(published_folders(settings)) == 2
    _, out, _ = run("clean", "--json")
    assert json.loads(out)["folders"] == ["old"]
    assert [each.path.name for each in published_folders(settings)] == ["new"]
