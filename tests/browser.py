"""Headless Chromium on TensorBoard's page: what its cards draw, in which order, and what the console says."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 60

TABS = {
    "histograms": "tf-histogram-loader",
    "distributions": "tf-distribution-loader",
    "timeseries": "histogram-card",
}
"""What holds a card of a tag and run, on each tab."""

# Cards live in nested shadow trees.
_ALL = """
function* all(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT);
  for (let node; (node = walker.nextNode()); ) {
    yield node;
    if (node.shadowRoot) yield* all(node.shadowRoot);
  }
}
"""

# A card is known by its tag and run, and drawn by the paths of its chart.
_CARDS = """
const found = [];
for (const card of all(document)) {
  if (card.localName !== arguments[0] || !card.getBoundingClientRect().width) continue;
  const inside = [...(card.shadowRoot ? all(card.shadowRoot) : all(card))];
  const words = (name) => inside.filter((e) => e.localName === name).map((e) => e.textContent.trim());
  const tag = card.tag ?? words('tb-truncated-path')[0];
  const run = card.run ?? words('card-run-name')[0];
  const paths = inside.filter((e) => e.localName === 'path').map((e) => e.getAttribute('d') ?? '');
  found.push({tag, run, paths: paths.filter((d) => d.length > 0)});
}
return found;
"""

_PRESS = """
for (const element of all(document)) {
  const here = element.getBoundingClientRect().width;
  if (here && element.matches(arguments[0]) && element.textContent.trim().toLowerCase() === arguments[1]) {
    element.click();
    return true;
  }
}
return false;
"""


class Page:
    """A tab of TensorBoard's page.

    Parameters
    ----------
    driver : selenium.webdriver.Chrome
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def open(self, url: str, tab: str, tags: str = ".", height: int = 9000) -> None:
        """Show a tab: all cards whose tags match, on one sheet that is so many pixels high."""
        self._driver.set_window_size(1500, height)
        self._driver.get(f"{url}/?darkMode=false")
        settings = json.dumps({"paginationSize": 100})
        self._driver.execute_script(
            "localStorage.setItem('_tb_global_settings', arguments[0])", settings
        )
        self._driver.get(
            "about:blank"
        )  # or else only the fragment changes, and nothing is loaded anew
        self._driver.get(f"{url}/?darkMode=false&tagFilter={tags}#{tab}&tagFilter={tags}")

    def cards(
        self, tab: str, count: int, paths: int, seconds: float = DEADLINE_SECONDS
    ) -> dict[tuple[str, str], list[str]]:
        """Give the paths that each card draws, by tag and run, once so many cards have drawn so many."""
        deadline = time.monotonic() + seconds
        before: Any = None
        while True:
            found = {
                (card["tag"], card["run"]): card["paths"]
                for card in self._driver.execute_script(_ALL + _CARDS, TABS[tab])
            }
            done = len(found) >= count and min(map(len, found.values()), default=0) >= paths
            # Charts move into place.
            if (done and found == before) or time.monotonic() > deadline:
                return found
            before = found
            time.sleep(0.5)

    def press(self, selector: str, text: str) -> None:
        """Click on the first visible element that a CSS selector matches and that has this text."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._driver.execute_script(_ALL + _PRESS, selector, text):
            assert time.monotonic() < deadline, f"nothing says {text!r}"
            time.sleep(0.2)

    def errors(self) -> list[str]:
        """Give what the console has complained of since the last call."""
        entries = self._driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def photograph(self, path: Path) -> None:
        """Save what is seen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self._driver.save_screenshot(str(path))


def missing() -> str:
    """Say what is not installed; empty if nothing is missing."""
    if not importlib.util.find_spec("selenium"):
        return "selenium is not installed"
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "no chromium or chromedriver. Hint: apt-get install chromium chromium-driver"
    return ""


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """Start the browser, and end it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "hide-scrollbars",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Page(driver)
    finally:
        driver.quit()
