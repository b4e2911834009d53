"""A real browser for tests of pages: Debian's Chromium, driven by Playwright. Without it, tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")


@dataclass
class Opened:
    """A page in a browser, and what it has said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def seconds(self) -> float:
        """Processor time that the page's main thread has worked: wall-clock time depends on what else runs."""
        metrics = self.page.context.new_cdp_session(self.page)
        metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
        values = {each["name"]: each["value"] for each in metrics.send("Performance.getMetrics")["metrics"]}
        return float(values["TaskDuration"])


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Lend a browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, args=list(FLAGS), viewport={"width": 1400, "height": 1000}
        )
        yield context
        context.close()


def opened(context: Any, file: Path, fragment: str = "") -> Opened:
    """Open a file and wait until its plots can be used."""
    result = Opened(context.new_page())
    result.page.on("console", lambda message: result.said.append(f"{message.type}: {message.text}"))
    result.page.on("pageerror", lambda error: result.said.append(str(error)))
    result.page.on("request", lambda request: result.asked.append(request.url))
    result.page.goto(file.as_uri() + fragment)
    result.page.wait_for_selector("html[data-ready]", timeout=60_000)
    return result
