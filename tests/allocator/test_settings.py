"""Settings from the environment, and their way to a child process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocator.base.settings import Settings


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
