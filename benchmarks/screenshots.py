"""The pictures of the pages in ``docs/pictures``, made from the demo's store.

python -m benchmarks.screenshots [--home FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.demo_site import DemoSite, demo_site

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LARGEST_BYTES = 150_000
_WIDTH = 1040


def take(site: DemoSite, folder: Path) -> list[Path]:
    """Write all pictures.

    Raises:
        ValueError: a picture is larger than the docs can bear.
    """
    folder.mkdir(exist_ok=True)
    workshop = (
        f"/workshop?profile={site.profile}&use=block_params&use=kv_bytes_per_token&kv_bytes_per_token=0.75"
    )
    pages = {
        "jobs": ("/", 420),
        "job": (f"/jobs/{site.job}", 720),
        "profile": (f"/profiles/{site.profile}", 720),
        "workshop": (workshop, 860),
        "plan": (f"/plans/{site.plans[-1]}", 860),
        "diff": (f"/plans/{site.plans[-1]}/diff/{site.plans[0]}", 900),
    }
    pictures = []
    for name, (path, height) in pages.items():
        page = site.browser.new_page(viewport={"width": _WIDTH, "height": height})
        pictures.append(_picture(page, site.url + path, folder / f"{name}.png"))
        page.close()
    page = site.browser.new_page(viewport={"width": 360, "height": 760}, color_scheme="dark")
    pictures.append(_picture(page, site.url + workshop, folder / "phone.png"))
    page.close()
    for file in pictures:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(
                f"{file.name} has {file.stat().st_size} bytes; at most {LARGEST_BYTES} are wanted"
            )
    return pictures


def _picture(page: Page, url: str, file: Path) -> Path:
    page.goto(url, wait_until="networkidle")
    page.screenshot(path=file)
    return file


def main() -> None:
    """Take all pictures and say where they are."""
    parser = argparse.ArgumentParser(description="Pictures of the pages for the docs.")
    parser.add_argument("--home", type=Path, help="where `rankalloc demo` has run; default: it is run first")
    options = parser.parse_args()
    with demo_site(options.home) as site:
        for file in take(site, FOLDER):
            sys.stdout.write(f"{file.stat().st_size:>8}  {file.name}\n")


if __name__ == "__main__":
    main()
