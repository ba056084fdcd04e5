"""``rankalloc profiles`` on a store filled by hand: what it shows, writes, takes in and refuses."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.plan.files.portable import export_profile, import_profile
from allocator.plan.queries import most_sensitive, removals
from allocator.stages.pipeline import JobView
from allocator.stages.profile_units import incomplete_layers
from allocator.stages.request import Request
from allocator.store import Store
from tests.support.processes import ROOT
from tests.support.profiles import LARGE, measured_profile

Run = Callable[..., tuple[int, str, str]]
AROUND = [{"layer": n, "qk": 8, "ov": 8, "mlp": 64} for n in range(2)]


def test_the_list_filters_by_model(run: Run, store: Store, profile: Profile) -> None:
    other = measured_profile(reference="local:[red]other[/red]", effort="fast")
    store.profiles.put("default", other)
    store.profiles.put("others", measured_profile(seed=2))
    _, out, _ = run("profiles", "list")
    assert profile.key[:12] in out
    assert "local:[red]other[/red]" in out, "markup in a name is text"
    assert "f" * 12 not in out
    _, out, _ = run("profiles", "list", "--model", "local:small", "--json")
    assert [each["key"] for each in json.loads(out)["items"]] == [profile.key]


def test_show_says_what_it_is_and_how_good(run: Run, profile: Profile) -> None:
    code, out, err = run("profiles", "show", profile.key[:6])
    assert (code, err) == (0, "")
    for told in (profile.key, "local:small", "a3+ (a3+/4)", "standard", "123,456", "c" * 58):
        assert told in out, told
    assert all(len(line) <= 80 for line in out.splitlines())
    document = json.loads(run("profiles", "show", profile.key, "--json")[1])
    assert document["repairs"] == sum(len(curve.repairs) for curve in profile.curves)
    first = most_sensitive(removals(profile)[0])[0]
    assert document["most_sensitive"][0] == first.document
    assert document["interpolation_errors"]["qk"]["points"] > 0


def test_curves_as_table_csv_and_json(run: Run, profile: Profile) -> None:
    key = profile.key[:8]
    _, out, _ = run("profiles", "curves", key, "--layer", 1, "--component", "ov")
    assert out.count(" ov ") == len(profile.curves[4].measured)
    _, out, _ = run("profiles", "curves", key, "--component", "mlp", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2 * 64
    assert [float(row["loss_nats"]) for row in rows[:64]] == list(profile.curves[2].loss_nats)
    _, out, _ = run("profiles", "curves", key, "--layer", 0, "--json")
    assert json.loads(out)["curves"] == profile.document["curves"][:3]
    assert run("profiles", "curves", key, "--layer", 2)[0] == 2
    assert run("profiles", "curves", key, "--component", "head")[0] == 2


def test_sensitive_orders_both_ways(run: Run, profile: Profile) -> None:
    document = json.loads(
        run("profiles", "sensitive", profile.key, "--remove", 0.3, "--limit", 3, "--json")[1]
    )
    found = most_sensitive(removals(profile, remove=0.3)[0])
    assert document["most_sensitive"] == [each.document for each in found[:3]]
    code, out, _ = run("profiles", "sensitive", profile.key, "--metric", "kv_bytes_per_token")
    assert code == 0
    assert "kv_bytes_per_token=" in out
    assert all(len(line) <= 80 for line in out.splitlines() if "--budget" not in line)
    code, _, err = run("profiles", "sensitive", profile.key, "--metric", "speed")
    assert (code, "metric" in err) == (2, True)
    assert "cannot lose 90 %" in run("profiles", "sensitive", profile.key, "--remove", 0.9)[1]


def test_tables_of_a_large_model_fit_80_columns(run: Run, store: Store) -> None:
    large = measured_profile(LARGE, effort="fast", reference="hf:somebody/" + "long-name-" * 6)
    store.profiles.put("default", large)
    for name in ("list", "show", "sensitive"):
        arguments = [] if name == "list" else [large.key]
        code, out, err = run("profiles", name, *arguments)
        assert (code, err) == (0, "")
        assert all(len(line) <= 80 for line in out.splitlines() if "--budget" not in line)


def test_plot_writes_pictures(run: Run, profile: Profile, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pictures"
    assert run("profiles", "plot", profile.key, "--out", out)[0] == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["curves-linear.svg", "curves-log.svg", "heatmap.svg"]
    for name in names:
        assert ElementTree.parse(out / name).getroot().tag.endswith("svg")
    alone = tmp_path / "alone"
    assert run("profiles", "plot", profile.key, "--out", alone, "--scale", "log")[0] == 0
    assert sorted(path.name for path in alone.iterdir()) == ["curves-log.svg", "heatmap.svg"]
    assert run("profiles", "plot", profile.key, "--out", alone, "--scale", "cubic")[0] == 2


def test_a_file_goes_out_once_and_comes_in_as_often_as_one_likes(
    run: Run, store: Store, profile: Profile, tmp_path: Path
) -> None:
    file = tmp_path / "small.profile.json.gz"
    assert run("profiles", "export", profile.key, "--out", file)[0] == 0
    assert import_profile(file.read_bytes()).profile == profile
    code, _, err = run("profiles", "export", profile.key, "--out", file)
    assert (code, "exists" in err) == (2, True), "nothing is overwritten"
    code, out, _ = run("profiles", "import", file, "--json")
    first = json.loads(out)
    assert (code, first["stored"]) == (0, True)
    stored = store.profiles.get("default", first["key"])
    assert stored.curves == profile.curves
    assert stored.provenance.original_key == profile.key
    assert json.loads(run("profiles", "import", file, "--json")[1]) == {**first, "stored": False}
    assert "was there already" in run("profiles", "import", file)[1]
    trusted = json.loads(run("profiles", "import", file, "--trust", "--json")[1])
    assert (trusted["key"], trusted["stored"]) == (profile.key, False), "it was measured here"


def test_jobs_measure_for_themselves_unless_the_import_is_trusted(
    run: Run, store: Store, tmp_path: Path
) -> None:
    profile = measured_profile(seed=7, around=AROUND)
    file = tmp_path / "profile.gz"
    file.write_bytes(export_profile(profile))
    assert run("profiles", "import", file)[0] == 0
    read = {
        "identity": profile.identity,
        "geometry": profile.model.geometry.document,
        "calibration": profile.calibration.document,
    }
    job = JobView("job", "default", Request(kind="profile", model="local:m"), {"prepare": [read]})
    assert list(incomplete_layers(job, store)) == [0, 1]
    assert run("profiles", "import", file, "--trust")[0] == 0
    assert incomplete_layers(job, store) == {}
    assert store.profiles.get("default", profile.key).provenance.imported_by == "default"


@pytest.mark.parametrize("damaged", [b"", b"x" * 100, export_profile(measured_profile())[:-1]])
def test_a_damaged_file_is_refused_in_one_line(
    run: Run, store: Store, tmp_path: Path, damaged: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(damaged)
    code, out, err = run("profiles", "import", file, "--trust")
    assert (code, out) == (2, "")
    assert err.startswith("error: file")
    assert store.profiles.find("default").items == []


@pytest.mark.parametrize("key", ["abc", "0123456789"])
def test_a_key_that_names_no_profile_exits_2(run: Run, profile: Profile, key: str) -> None:
    for name in ("show", "curves", "sensitive"):
        code, out, err = run("profiles", name, key)
        assert (code, out) == (2, "")
        assert "error:" in err
    assert run("profiles", "import", "no-such-file")[0] == 2


def test_questions_load_no_torch(settings: Settings, store: Store, profile: Profile, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from api.cli.main import main\n"
        "for command in (['show', KEY], ['sensitive', KEY], ['plot', KEY, '--out', OUT]):\n"
        "    sys.argv = ['rankalloc', 'profiles', *command]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    names = f"KEY, OUT = {profile.key!r}, {str(tmp_path / 'out')!r}\n"
    environment = {"RANKALLOC_HOME": str(settings.home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", names + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
