"""What ``rankalloc doctor`` finds, each thing broken for real."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from allocator.base.settings import Settings
from allocator.jobs.host.doctor import examine
from allocator.jobs.host.finding import Finding
from allocator.store import Store
from allocator.store.database import Database
from tests.support.command import run
from tests.support.jobs import new_job
from tests.support.teams import token


def found(settings: Settings, check: str) -> Finding:
    return next(finding for finding in examine(settings) if finding.check == check)


def test_a_sound_deployment_has_nothing_wrong(
    any_settings: Settings, redis_url: str, tiny_model: str
) -> None:
    settings = any_settings.model_copy(update={"broker_url": redis_url})
    findings = examine(settings)
    assert [f for f in findings if f.state == "wrong"] == []
    assert found(settings, "broker") == Finding("broker", "ok", "Redis answers")
    assert found(settings, "models").found.startswith("1 in ")
    assert all(finding.advice for finding in findings if finding.state != "ok")


def test_a_model_that_no_job_can_name_is_told(settings: Settings, store: Store, tiny_model: str) -> None:
    folder = settings.model_roots[0] / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    notes = [each for each in examine(settings) if each.check == "models" and each.state == "note"]
    assert [each.found for each in notes] == ["'my model' has no name that jobs can give it"]
    assert notes[0].advice.startswith("rename it: 1 to 96 letters")
    assert found(settings, "models").found.startswith("1 in ")


def test_a_database_that_an_earlier_version_put_outside_of_the_home_is_told(
    settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"home": tmp_path / "what?is"})
    settings.prepare_home()
    # As it was made: by hand, so that all behind the ? became options.
    as_then = settings.model_copy(update={"database_url": f"sqlite:///{settings.home}/rankalloc.db"})
    Store.upgrade(as_then)
    assert (tmp_path / "what").is_file()
    told = found(settings, "earlier database")
    assert (told.state, f"at {tmp_path}/what," in told.found) == ("note", True)
    command = told.advice.removeprefix("with everything stopped, ")
    Store.open(settings, create=True).close()
    assert found(settings, "earlier database").advice.endswith(command)
    settings.home.joinpath("rankalloc.db").unlink()
    subprocess.run(command, shell=True, check=True)
    assert [each.check for each in examine(settings) if each.check == "earlier database"] == []
    assert found(settings, "database").state == "ok"
    (tmp_path / "what").write_text("a file of somebody's")
    assert [each.check for each in examine(settings) if each.check == "earlier database"] == []


def test_a_schema_of_another_version_comes_with_the_command(bare_settings: Settings) -> None:
    Store.upgrade(bare_settings)
    database = Database(bare_settings.sqlalchemy_url)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    database.close()
    assert found(bare_settings, "database").advice == "rankalloc db upgrade"
    assert found(bare_settings, "database").state == "wrong"


def test_what_does_not_answer_is_named_without_its_password(settings: Settings) -> None:
    broken = settings.model_copy(
        update={
            "database_url": "postgresql+psycopg://me:secret-word@127.0.0.1:9/x",
            "broker_url": "redis://:secret-word@127.0.0.1:9/0",
        }
    )
    findings = examine(broken)
    assert {f.check for f in findings if f.state == "wrong"} >= {"database", "broker"}
    assert "secret-word" not in str(findings)


def test_work_that_nobody_takes_is_wrong_after_a_while(
    store: Store, settings: Settings, scripted: None
) -> None:
    new_job(store, settings, "profile", {"model": "m"})
    assert found(settings, "work").state == "ok"
    impatient = settings.model_copy(update={"stalled_s": 1e-6})
    assert found(impatient, "work").state == "wrong"
    assert "rankalloc worker" in found(impatient, "work").advice


def test_who_is_let_in_without_a_token_is_said(store: Store, settings: Settings) -> None:
    proxied = settings.model_copy(update={"allowed_hosts": ["127.0.0.1", "[::1]", "plans.example.org"]})
    opened = settings.model_copy(update={"allow_unauthenticated_bind": True})
    assert "none was ever made" in found(settings, "tokens").found
    assert found(settings, "listening").state == "ok"
    assert "loopback alone" in found(settings, "listening").found
    for risky, said in ((proxied, "plans.example.org"), (opened, "beyond loopback")):
        finding = found(risky, "listening")
        assert finding.state == "note"
        assert said in finding.found
        assert "rankalloc tokens create" in finding.advice
    secret = token(store, "red", "ada", "read")
    for each in (settings, proxied, opened):
        assert found(each, "listening").state == "ok"
    assert found(settings, "tokens") == Finding("tokens", "ok", "1 live; every request to /v1 needs one")
    holder = store.tokens.holder(secret)
    assert holder is not None
    store.tokens.revoke("red", holder.token_id, actor="ada")
    assert found(settings, "tokens").state == "note"
    assert found(settings, "listening").state == "ok", "nobody gets in, and certainly nobody without a token"


def test_folders_that_cannot_be_used(settings: Settings, tmp_path: Path) -> None:
    missing = settings.model_copy(update={"model_roots": [tmp_path / "nowhere"]})
    assert found(missing, "models").state == "wrong"
    settings.home.chmod(0o755)
    assert found(settings, "home").advice == f"chmod 700 {settings.home}"
    assert found(settings.model_copy(update={"home": tmp_path / "later"}), "home").state == "note"


def test_time_limits_that_hand_work_out_twice(settings: Settings) -> None:
    wrong = settings.model_copy(update={"broker_url": "redis://x", "visibility_timeout_s": 1800})
    assert "3600" in found(wrong, "time limits").advice


@pytest.mark.parametrize(("roots", "status"), [(None, 0), ("/nowhere/at/all", 1)])
def test_the_command_says_it_and_its_status_tells(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    roots: str | None,
    status: int,
) -> None:
    if roots is not None:
        monkeypatch.setenv("RANKALLOC_MODEL_ROOTS", roots)
    found_status, output, _ = run(capsys, monkeypatch, tmp_path / "home", "doctor", "--json")
    states = {each["check"]: each["state"] for each in json.loads(output)["findings"]}
    assert found_status == status
    assert (states["models"] == "wrong") == bool(status)
    found_status, output, _ = run(capsys, monkeypatch, tmp_path / "home", "doctor")
    assert found_status == status
    assert ("/nowhere/at/all cannot be read" in output) == bool(status)
