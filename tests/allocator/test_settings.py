"""Settings from the environment, and their way to a child process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocator.base.settings import Settings
from allocator.store import Store
from tests.support import command
from tests.support.names import NAMES


def test_without_anything_set_all_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.home == tmp_path / ".rankalloc"
    assert settings.embedded_database
    assert settings.embedded_broker
    assert settings.sqlalchemy_url == f"sqlite:///{tmp_path}/.rankalloc/rankalloc.db"
    assert settings.text_roots == [tmp_path / ".rankalloc" / "texts"]
    rooms = (settings.moments_dir, settings.artifacts_dir, settings.tmp_dir, settings.partial_dir)
    for folder in (*rooms, settings.queue_dir):
        assert folder.is_relative_to(settings.home)


@pytest.mark.parametrize("name", NAMES)
def test_the_embedded_database_is_in_the_home_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    settings = Settings(home=tmp_path / name)
    Store.upgrade(settings)
    assert (tmp_path / name / "rankalloc.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing lies beside the home"


def test_an_empty_variable_is_one_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "DATABASE_URL", "THREADS"):
        monkeypatch.setenv(f"RANKALLOC_{name}", "")
    assert Settings().home == tmp_path / ".rankalloc"
    assert Settings().embedded_database


def test_a_secret_s_file_that_is_missing_names_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKALLOC_DATABASE_URL_FILE", str(tmp_path / "url"))
    code, _, shown = command.run(capsys, monkeypatch, tmp_path / "home", "jobs", "list")
    assert code == 2
    assert shown.count("\n") == 1
    assert f"{tmp_path / 'url'}: No such file or directory (RANKALLOC_DATABASE_URL_FILE)" in shown


def test_a_home_that_cannot_be_made_names_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    for home, said in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        code, _, shown = command.run(capsys, monkeypatch, home, "profiles", "list")
        assert code == 2
        assert shown == f"error: {home}: {said}; set RANKALLOC_HOME to a folder that can be written to\n"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres//me:{word}@host/x", "is no address of a database; write postgresql://<user>"),
        ("{word}", "is no address of a database"),
        ("postgresql://me:{word}@host:port/x", "is no address of a database"),
        ("mysql://me:{word}@host/x", "'mysql' is not postgresql or sqlite"),
        ("postgresql+asyncpq://me:{word}@host/x", "names no driver that there is"),
        ("postgresql+psycopg2://me:{word}@host/x", "'psycopg2' is not installed; pip install"),
    ],
)
def test_a_mistyped_address_of_the_database_is_one_line_that_says_how_to_write_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("RANKALLOC_DATABASE_URL", url.format(word="secret-word"))
    for arguments in (("jobs", "list"), ("db", "upgrade")):
        code, printed, shown = command.run(capsys, monkeypatch, tmp_path / "home", *arguments)
        assert (code, printed) == (2, "")
        assert shown.count("\n") == 1
        assert shown.startswith("error: RANKALLOC_DATABASE_URL: ")
        assert said in shown
        assert "secret-word" not in shown, "it holds a password"
    assert list(tmp_path.iterdir()) == []


def test_the_home_is_private(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.prepare_home()
    assert settings.home.stat().st_mode & 0o777 == 0o700


def test_lists_are_read_as_path_and_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKALLOC_MODEL_ROOTS", os.pathsep.join(["/models/a", "/models/b"]))
    monkeypatch.setenv("RANKALLOC_ALLOWED_HOSTS", "one.example, two.example")
    settings = Settings()
    assert settings.model_roots == [Path("/models/a"), Path("/models/b")]
    assert settings.allowed_hosts == ["one.example", "two.example"]


def test_secrets_may_come_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://me:p%40ss@host/db\n")
    monkeypatch.setenv("RANKALLOC_DATABASE_URL_FILE", str(tmp_path / "url"))
    settings = Settings()
    assert settings.sqlalchemy_url == "postgresql+psycopg://me:p%40ss@host/db"
    assert not settings.embedded_database
    assert "p%40ss" not in str(settings.environment()), "an environment can be read by others"


def test_a_child_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        home=tmp_path / "home",
        model_roots=[tmp_path / "a", tmp_path / "b"],
        broker_url="redis://host",
        lease_s=1.25,
        threads=3,
        allow_unauthenticated_bind=True,
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


@pytest.mark.parametrize(("name", "value"), [("LEASE_S", "0"), ("MAX_ATTEMPTS", "none"), ("THREADS", "-1")])
def test_an_impossible_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RANKALLOC_{name}", value)
    with pytest.raises(ValueError, match=name.lower()):
        Settings()


TAKEN_AS_THEY_ARE = {
    *("home", "database_url", "database_url_file", "broker_url", "broker_url_file"),
    *("model_roots", "text_roots", "worker_id", "allowed_hosts", "root_path", "trusted_proxies"),
}
"""Names and addresses, which are wrong only where there is no such thing: what is said then is tested with what needs them."""


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - TAKEN_AS_THEY_ARE))
def test_every_setting_that_is_broken_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"RANKALLOC_{name.upper()}", "broken")
    code, printed, shown = command.run(capsys, monkeypatch, tmp_path / "home", "profiles", "list")
    assert (code, printed, shown.count("\n")) == (2, "", 1)
    assert shown.startswith(f"error: RANKALLOC_{name.upper()}"), shown
    assert not (tmp_path / "home").exists()
