"""The command line on the local store and over REST: the same commands, the same documents, the same exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from allocator.base.errors import NotFound
from allocator.base.settings import Settings
from allocator.store import Store
from tests.support import command
from tests.support.jobs import new_job
from tests.support.live import served, working
from tests.support.profiles import measured_profile
from tests.support.stages import STAGES
from tests.support.teams import add_member

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def key(store: Store) -> str:
    profile = measured_profile()
    store.profiles.put("default", profile)
    return str(profile.key)


@pytest.fixture
def url(settings: Settings, store: Store, scripted: None, tiny_model: str) -> Iterator[str]:
    with served(settings, store) as address:
        yield address


@pytest.fixture
def local(settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return partial(command.run, capsys, monkeypatch, settings.home)


@pytest.fixture
def remote(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """From a machine with a home of its own, which stays empty."""
    monkeypatch.setenv("RANKALLOC_SERVER", url)
    return partial(command.run, capsys, monkeypatch, tmp_path / "elsewhere")


@pytest.fixture(params=["local", "remote"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def parsed(run: Run, *arguments: object) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_profiles_are_asked_carried_and_planned_from(run: Run, key: str, tmp_path: Path) -> None:
    (listed,) = parsed(run, "profiles", "list")["items"]
    assert listed["key"] == key
    assert listed["created_at"].endswith("Z")
    assert key[:12] in run("profiles", "list")[1]
    assert parsed(run, "profiles", "show", key[:8])["key"] == key
    assert len(parsed(run, "profiles", "curves", key, "--layer", 0)["curves"]) == 3
    assert parsed(run, "profiles", "sensitive", key)["profile_key"] == key
    assert parsed(run, "profiles", "plot", key, "--out", tmp_path / "pictures")["files"]
    file = tmp_path / "file"
    assert parsed(run, "profiles", "export", key, "--out", file)["bytes"] == file.stat().st_size
    assert parsed(run, "profiles", "import", file)["original_key"] == key
    assert len(parsed(run, "frontier", key, "--metric", "params", "--points", 3)["points"]) == 3
    plan = parsed(run, "plan", key[:8], "--budget", "block_params=0.7", "--explain")
    assert plan["explanation"]["components"]
    assert parsed(run, "plans", "show", plan["digest"])["ranks"] == plan["ranks"]


def test_plans_are_found_compared_and_named(run: Run, key: str) -> None:
    tight, loose = (parsed(run, "plan", key, "--budget", f"block_params={share}") for share in (0.6, 0.9))
    found = parsed(
        run, "plans", "list", "--metric", "block_params", "--max-limit", tight["budgets"][0]["limit"]
    )
    assert [each["digest"] for each in found["items"]] == [tight["digest"]]
    assert len(parsed(run, "plans", "list", "--limit", 1)["items"]) == 1
    assert run("plans", "list", "--max-limit", 3)[0] == 2

    made = parsed(run, "plans", "alias", "set", "prod", loose["digest"])
    assert made["version"] == 1
    code, _, err = run("plans", "alias", "set", "prod", tight["digest"])
    assert (code, "--version N" in err) == (2, True)
    code, out, _ = run("plans", "alias", "set", "prod", tight["digest"], "--version", 1)
    assert (code, "version 2" in out) == (0, True)
    code, _, err = run("plans", "alias", "set", "prod", loose["digest"], "--version", 1)
    assert (code, "changed meanwhile" in err) == (2, True)
    diff = parsed(run, "plans", "diff", loose["digest"], "alias:prod", "--context", 4096)
    assert diff["b"] == tight["digest"]
    lines = run("plans", "diff", loose["digest"], "alias:prod", "--context", 4096)[1].splitlines()
    assert lines == [*(change["text"] for change in diff["changes"]), diff["text"]]
    assert parsed(run, "plans", "alias", "rollback", "prod", "--version", 2)["digest"] == loose["digest"]
    actions = [each["action"] for each in parsed(run, "plans", "alias", "history", "prod")["items"]]
    assert actions == ["rollback", "set", "set"]
    assert "rollback" in run("plans", "alias", "history", "prod")[1]

    assert parsed(run, "plans", "comment", "alias:prod", "Held up.")["text"] == "Held up."
    assert parsed(run, "plans", "label", "alias:prod", "good")["labels"][0]["label"] == "good"
    assert [each["digest"] for each in parsed(run, "plans", "list", "--label", "good")["items"]] == [
        loose["digest"]
    ]
    shown = run("plans", "show", "alias:prod")[1]
    for said in (loose["digest"], "aliases: prod", "labels: good", "default: Held up."):
        assert said in shown
    assert run("plans", "label", "alias:prod", "good", "--remove")[1] == "labels: none\n"
    assert f"profile {key[:12]} (measured) of local:small" in run("plans", "lineage", "alias:prod")[1]
    assert parsed(run, "plans", "alias", "list")["items"][0]["name"] == "prod"
    assert parsed(run, "plans", "alias", "show", "prod")["version"] == 3
    assert run("plans", "alias", "delete", "prod", "--version", 2)[0] == 2
    assert run("plans", "alias", "delete", "prod", "--version", 3)[0] == 0
    assert parsed(run, "plans", "alias", "list")["items"] == []


def test_profiles_and_plans_are_shared_and_taken_back(run: Run, key: str, store: Store) -> None:
    add_member(store, "vision")
    plan = parsed(run, "plan", key, "--budget", "block_params=0.7")["digest"]
    parsed(run, "plans", "alias", "set", "prod", plan)
    for kind, name, whole in (("profile", key[:8], key), ("plan", "alias:prod", plan)):
        room, seen = f"{kind}s", store.profiles if kind == "profile" else store.plans
        code, _, err = run(room, "share", name, "nobody")
        assert (code, "'nobody' is not a team" in err) == (2, True)
        made = parsed(run, room, "share", name, "vision")
        assert (made["kind"], made["key"], made["with_team"]) == (kind, whole, "vision")
        assert parsed(run, room, "share", name, "vision")["id"] == made["id"]
        assert dict(seen.get("vision", whole))["shared_by"] == "default"
        assert [each["id"] for each in parsed(run, room, "shares")["items"]] == [made["id"]]
        assert whole in run(room, "shares")[1]
        assert (
            run(room, "unshare", name, "vision")[1]
            == f"{kind} {whole} is no longer shared with team vision\n"
        )
        with pytest.raises(NotFound):
            seen.get("vision", whole)
        code, _, err = run(room, "unshare", name, "vision")
        assert (code, f"rankalloc {room} shares" in err) == (2, True)
        assert parsed(run, room, "shares")["items"] == []
        assert parsed(run, room, "shares", "--undone")["items"][0]["revoked_by"] == "default"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("plan", "KEY", "--budget", "block_params=0.01"), 3, "least that any ranks reach"),
        (("plan", "KEY", "--budget", "speed=0.5"), 2, "block_params"),
        (("plan", "feedfeed", "--budget", "params=0.5"), 2, "no profile"),
        (("plans", "show", "feedfeed"), 2, "no plan"),
        (("plans", "show", "alias:none"), 2, "plan-aliases"),
        (("jobs", "show", "none"), 2, "no job"),
        (("jobs", "cancel", "none"), 2, "no job"),
        (("plans", "alias", "set", "Prod", "KEY"), 2, "no plan"),
    ],
)
def test_mistakes_have_the_same_exit_status_everywhere(
    run: Run, key: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    found, out, err = run(*(key if each == "KEY" else each for each in arguments))
    assert (found, out) == (code, "")
    assert says in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


def test_a_job_is_submitted_followed_and_its_files_fetched(
    remote: Run, local: Run, settings: Settings, store: Store, tmp_path: Path
) -> None:
    with working(settings, store):
        code, out, err = remote(
            "jobs", "submit", "compress", "local:tiny", "--budget", "block_params=0.8", "--wait", "--json",
            "--out", tmp_path / "out", "--idempotency-key", "mine",
        )  # fmt: skip
    assert code == 0, err
    job = json.loads(out)
    assert (job["state"], job["kind"]) == ("succeeded", "compress")
    again = parsed(
        remote, "jobs", "submit", "compress", "local:tiny", "--budget", "block_params=0.8",
        "--idempotency-key", "mine",
    )  # fmt: skip
    assert again["id"] == job["id"]
    assert [each["id"] for each in parsed(remote, "jobs", "list", "--state", "succeeded")["items"]] == [
        job["id"]
    ]
    assert job["id"] in remote("jobs", "list")[1]
    assert job["id"] in remote("jobs", "show", job["id"])[1]
    events = parsed(remote, "jobs", "events", job["id"], "--after", 3)["items"]
    assert events[0]["seq"] == 4
    followed = remote("jobs", "events", job["id"], "--follow")[1].splitlines()
    assert len(followed) == 3 + len(events)
    assert remote("jobs", "retry", job["id"])[0] == 2

    file = settings.artifacts_dir / job["id"] / "report.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}")
    sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    store.artifacts.add("default", job["id"], "report.json", 2, sha256, f"{job['id']}/report.json")
    assert parsed(remote, "jobs", "download", job["id"], "--out", tmp_path / "files")["files"]
    assert (tmp_path / "files" / "report.json").read_text() == "{}"
    assert not (tmp_path / "elsewhere").exists(), "nothing of the local store is touched"


def test_the_local_store_shows_jobs_too_and_says_who_carries_them_out(
    local: Run, settings: Settings, store: Store, scripted: None, tiny_model: str, tmp_path: Path
) -> None:
    request = {"model": "local:tiny", "budgets": [], "script": {"prepare": {"artifact": True}}}
    job_id = new_job(store, settings, "profile", request)
    assert parsed(local, "jobs", "list")["items"][0]["id"] == job_id
    with working(settings, store):
        assert "job has succeeded" in local("jobs", "events", job_id, "--follow")[1]
    parsed(local, "jobs", "download", job_id, "--out", tmp_path / "files")
    assert (tmp_path / "files" / "compact" / "inner" / "weights.bin").is_file()
    code, _, err = local("jobs", "submit", "plan", "local:tiny", "--budget", "params=0.5")
    assert (code, "--server" in err) == (2, True)


def test_a_job_that_fails_exits_4_and_is_done_again(remote: Run, settings: Settings, store: Store) -> None:
    fails = {"profile": {"error": {"kind": "ValueError", "item": "profile-0"}}}
    job_id = new_job(store, settings, "profile", {"model": "local:tiny", "script": fails})
    with working(settings, store):
        remote("jobs", "events", job_id, "--follow")
        code, out, err = remote("jobs", "retry", job_id, "--wait", "--quiet")
    assert (code, out) == (4, "")
    assert "ValueError" in err
    assert err.startswith("error: "), "and nothing of how it came there"
    assert store.jobs.find("default").items[0].retry_of == job_id


def test_a_server_that_is_not_there_is_said_in_a_line(remote: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.client.retrying.time.sleep", lambda seconds: None)
    code, _, err = remote("jobs", "list", "--server", "http://127.0.0.1:9")
    assert (code, "cannot be reached" in err) == (1, True)
    code, _, err = remote("jobs", "list", "--server", "nowhere")
    assert (code, "not an address" in err) == (1, True)
    assert len(err.splitlines()) == 1


def test_trust_is_the_machine_s_own(remote: Run, local: Run, key: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert remote("profiles", "export", key, "--out", file)[0] == 0
    code, _, err = remote("profiles", "import", file, "--trust")
    assert (code, "nobody's word" in err) == (2, True)


def test_a_plan_is_applied_by_a_service(
    remote: Run, key: str, settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = parsed(remote, "plan", key, "--budget", "block_params=0.7", "--out", tmp_path / "plan.json")
    parsed(remote, "plans", "alias", "set", "prod", plan["digest"])
    ran = STAGES["report"].run

    def report(context: Any) -> dict[str, Any]:
        """As the real stage, as far as files go."""
        for name in ("report.json", "plan.json"):
            (context.temporary_dir() / name).write_text(json.dumps({"of": context.job.request.plan}))
            context.publish_artifact(context.temporary_dir() / name, name)
        for name in ("compact", "padded"):
            (context.temporary_dir() / name).mkdir()
            (context.temporary_dir() / name / "model.safetensors").write_bytes(b"weights")
            context.publish_artifact(context.temporary_dir() / name, name)
        return ran(context)

    monkeypatch.setattr(STAGES["report"], "run", report)
    for n, name in enumerate(("alias:prod", tmp_path / "plan.json", plan["digest"][:9])):
        out = tmp_path / f"out{n}"
        with working(settings, store):
            found = parsed(remote, "apply", name, "local:tiny", "--out", out, "--export", "compact")
        assert found == {"of": plan["digest"]}
        assert sorted(path.name for path in out.iterdir()) == ["compact", "plan.json", "report.json"]
    assert not list(tmp_path.glob(".*"))
    code, _, err = remote("apply", tmp_path / "none.json", "local:tiny", "--out", tmp_path / "no")
    assert (code, "there is no file" in err) == (2, True)
