"""From the move of a slider to the new plan on screen, in a real browser over the demo's profile.

The clock runs in the page: from just before the slider's event to the frame after the answer was put in place.

    python -m benchmarks.pages_speed [--home FOLDER] [--moves 40] [--fill]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.demo_site import DemoSite, demo_site
from tests.support.pages import fill

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "pages.md"
_MOVE = """([metric, value]) => new Promise((resolve) => {
  const slider = document.querySelector(`[data-for=${metric}]`);
  const seen = new MutationObserver(() => {
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began), 0));
  });
  seen.observe(document.querySelector(".results"), { childList: true });
  const began = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
})"""
_BUDGETS = {
    "one budget": ["block_params"],
    "two budgets": ["block_params", "kv_bytes_per_token"],
    "five budgets": ["block_params", "params", "kv_bytes_per_token", "memory", "flops_per_token"],
}
_PAUSE_MS = 120
"""Between moves, as of a hand that goes on moving."""


def measure(site: DemoSite, moves: int) -> dict[str, list[float]]:
    """Budgets in force -> milliseconds of every move."""
    times = {}
    for name, metrics in _BUDGETS.items():
        page = site.browser.new_page(viewport={"width": 1280, "height": 900})
        shares = "&".join(f"use={metric}&{metric}=0.9" for metric in metrics)
        page.goto(f"{site.url}/workshop?profile={site.profile}&{shares}", wait_until="networkidle")
        times[name] = [_moved(page, 0.9 - 0.5 * (n % 21) / 20) for n in range(1, moves + 1)]
        page.close()
    return times


def _moved(page: Page, share: float) -> float:
    page.wait_for_timeout(_PAUSE_MS)
    return float(page.evaluate(_MOVE, ["block_params", round(share, 3)]))


def table(times_of: dict[str, list[float]]) -> str:
    """One row for each number of budgets."""
    lines = ["| slider to plan on screen, ms | median | 95 % below | slowest |", "|---|---|---|---|"]
    for name, times in times_of.items():
        high = statistics.quantiles(times, n=20)[-1]
        lines.append(f"| {name} | {statistics.median(times):.0f} | {high:.0f} | {max(times):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="From slider to plan on screen.")
    parser.add_argument("--home", type=Path, help="where `rankalloc demo` has run; default: it is run first")
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--fill", action="store_true", help="also put the table into docs/how-to/pages.md")
    options = parser.parse_args()
    with demo_site(options.home) as site:
        markdown = table(measure(site, options.moves))
        sys.stderr.write(f"{platform.machine()}, Chromium {site.browser.version}\n")
    sys.stdout.write(markdown + "\n")
    if options.fill:
        fill(_PAGE, {"pages": markdown})


if __name__ == "__main__":
    main()
