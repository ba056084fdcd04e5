"""A real Chromium for the tests of the pages: one on PATH, else Debian's package where we are root, else Playwright's own
download.

python -m tests.support.browser      finds or installs it and prints where it is
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_HELP = (
    "No browser for the tests of the pages. Put one on PATH ("
    + ", ".join(NAMES)
    + "), or run `apt-get install chromium` as root, or `python -m playwright install chromium`."
)


def find() -> str:
    """Path of a browser, which is installed where there is none.

    Raises:
        RuntimeError: none is there and none can be installed; says what to do.
    """
    found = _on_path()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _say("installing Debian's chromium with apt-get; a minute")
        _run("apt-get", "update", "-q")
        _run("apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium")
        found = _on_path()
    return found or _downloaded()


def _on_path() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _downloaded() -> str:
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    if not os.path.exists(path):
        _say("downloading Playwright's chromium; a minute")
        _run(sys.executable, "-m", "playwright", "install", "chromium")
    if not os.path.exists(path):
        raise RuntimeError(_HELP)
    return path


def _run(*command: str) -> None:
    """Its failure is told by what is missing afterwards."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)


def _say(text: str) -> None:
    sys.stderr.write(f">> {text}\n")


@contextmanager
def launched() -> Iterator[Browser]:
    """A running browser, closed at the end."""
    path = find()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *sandbox])
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    sys.stdout.write(f"   {find()}\n")
