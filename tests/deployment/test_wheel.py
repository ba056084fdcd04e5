"""The wheel carries the migrations and the examples, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip would put it into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def _python(installed: Path, home: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "RANKALLOC_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_three_packages_and_no_tests(installed: Path) -> None:
    folders = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert folders == {"allocator", "api", "solvers"}
    assert list((installed / "allocator" / "_migrations" / "versions").glob("0001_*.py"))


def test_the_schema_is_made_from_the_wheels_migrations(installed: Path, tmp_path: Path) -> None:
    code = (
        "from allocator.base.settings import Settings; from allocator.store import Store, migrate\n"
        "print(Store.upgrade(Settings())); Store.open(Settings()); print(migrate.migrations_folder())"
    )
    revision, folder = _python(installed, tmp_path / "home", code).split()
    assert revision
    assert Path(folder) == installed / "allocator" / "_migrations"


def test_the_wheels_examples_are_the_default_models(installed: Path, tmp_path: Path) -> None:
    code = (
        "from allocator.base.references import local_models; from allocator.base.settings import Settings\n"
        "print(*local_models(Settings()))"
    )
    assert _python(installed, tmp_path / "home", code).split() == ["pylm-gpt2", "pylm-llama"]


def test_the_wheels_pages_have_their_templates_and_scripts(installed: Path, tmp_path: Path) -> None:
    code = (
        "from allocator.base.settings import Settings\n"
        "from fastapi.testclient import TestClient; from api.app import create_app\n"
        "import re\n"
        "settings = Settings(); settings.prepare_home()\n"
        "with TestClient(create_app(settings), base_url='http://127.0.0.1') as client:\n"
        "    page = client.get('/').text\n"
        "    print(*(client.get(url).status_code for url in re.findall('\\x22(/static/[^\\x22]+)\\x22', page)))"
    )
    assert set(_python(installed, tmp_path / "home", code).split()) == {"200"}
