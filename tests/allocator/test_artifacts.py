"""Intermediate results on disk: whole or not there, checked when used, let go by rule and never under a job's hands."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from allocator.base.errors import RankallocError
from allocator.base.settings import Settings
from allocator.profiling.artifacts import checked_file, is_published, prune, publish_folder, published_folders

DAY_S = 86_400


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home", moments_keep_days=30, moments_keep_bytes=10_000)
    made.prepare_home()
    return made


def put(settings: Settings, name: str, *, size: int = 1000, unused_days: float = 0) -> Path:
    source, target = settings.tmp_dir / name, settings.moments_dir / name
    source.mkdir()
    (source / "layer-0.safetensors").write_bytes(os.urandom(size))
    publish_folder(source, target)
    then = time.time() - unused_days * DAY_S
    os.utime(target, (then, then))
    return target


def test_a_published_file_is_what_was_written(settings: Settings) -> None:
    folder = put(settings, "a")
    content = checked_file(folder, "layer-0.safetensors").read_bytes()
    assert len(content) == 1000
    second = settings.tmp_dir / "again"
    second.mkdir()
    (second / "layer-0.safetensors").write_bytes(b"of somebody who was slower")
    publish_folder(second, folder)
    assert checked_file(folder, "layer-0.safetensors").read_bytes() == content


@pytest.mark.parametrize("how", ["flipped bit", "cut short", "grown", "no manifest", "no file", "no JSON"])
def test_damage_is_found_and_put_out_of_the_way(settings: Settings, how: str) -> None:
    folder = put(settings, "a")
    file, manifest = folder / "layer-0.safetensors", folder / "manifest.json"
    content = file.read_bytes()
    if how == "flipped bit":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "cut short":
        file.write_bytes(content[:-1])
    elif how == "grown":
        file.write_bytes(content + b"\0")
    elif how == "no JSON":
        manifest.write_text("{")
    else:
        (manifest if how == "no manifest" else file).unlink()
    with pytest.raises(RankallocError, match="damaged on the disk and have been removed"):
        checked_file(folder, "layer-0.safetensors")
    assert not is_published(folder), "so that it is made again"


def test_a_folder_that_is_gone_is_said_to_be_gone(settings: Settings) -> None:
    folder = put(settings, "a")
    shutil.rmtree(folder)
    with pytest.raises(RankallocError, match="were removed while the job was running"):
        checked_file(folder, "layer-0.safetensors")


def test_what_is_old_goes_unless_it_is_needed(settings: Settings) -> None:
    for name, days in (("new", 0), ("young", 29), ("old", 31), ("needed", 400)):
        put(settings, name, unused_days=days)
    gone = prune(settings, {"needed"}, dry_run=True)
    assert [each.path.name for each in gone] == ["old"]
    assert len(published_folders(settings)) == 4
    prune(settings, {"needed"})
    assert [each.path.name for each in published_folders(settings)] == ["new", "young", "needed"]


def test_beyond_the_limit_what_was_used_longest_ago_goes_first(settings: Settings) -> None:
    for number in range(8):
        put(settings, f"n{number}", size=2000, unused_days=number)
    prune(settings, {"n7"})
    left = [each.path.name for each in published_folders(settings)]
    assert left == ["n0", "n1", "n2", "n3", "n7"]
    tight = settings.model_copy(update={"moments_keep_bytes": 0})
    prune(tight, {"n7"})
    assert [each.path.name for each in published_folders(settings)] == ["n0", "n7"], (
        "n0 was used within the hour"
    )


def test_asking_for_a_folder_keeps_it_an_hour(settings: Settings) -> None:
    folder = put(settings, "old", unused_days=31)
    assert is_published(folder)
    assert prune(settings, set()) == []
    assert not is_published(settings.moments_dir / "other")
