"""A real Chromium that opens pages of the forwarder, and its error messages.

Playwright drives the Chromium of the system (Debian's package ``chromium-headless-shell``).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.live.clients import NODE, needs_node_package, needs_program, needs_python_package

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

PROGRAM = Path(next(filter(None, map(shutil.which, PROGRAMS)), f"/usr/bin/{PROGRAMS[0]}"))

NEEDS_BROWSER = (
    needs_program(PROGRAM, "apt install chromium-headless-shell"),
    needs_python_package("playwright"),
    needs_node_package("axe-core"),
)
"""Markers of tests that open pages."""

SCHEMES, PHONE_WIDTH = ("light", "dark"), 390

VIEWS = (("light", 1280), ("dark", PHONE_WIDTH))
"""Each theme and each width once: axe-core takes seconds for a page, and themes change no layout."""

SERIOUS = ("serious", "critical")


@contextlib.contextmanager
def run_browser() -> Iterator[Any]:
    """Run Chromium; yields Playwright's ``Browser``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers have no user namespaces for Chromium's own sandbox.
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(browser: Any, scheme: str = "light", width: int = 1280) -> Iterator[Any]:
    """Open a page in a new profile. Fails at the end if the console had errors or warnings.

    Violations of the Content-Security-Policy are among these errors.
    """
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        timezone_id="America/Los_Angeles",  # times on pages are in UTC
        permissions=["clipboard-read", "clipboard-write"],
    )
    errors: list[str] = []
    page = context.new_page()
    page.set_default_timeout(60_000)  # the page of the OpenAPI document is large
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert errors == [], errors


def check_page(page: Any) -> None:
    """Fail for serious findings of axe-core, and for content wider than the window."""
    page.evaluate((NODE / "node_modules" / "axe-core" / "axe.min.js").read_text())
    violations = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in violations
        if each["impact"] in SERIOUS
    ]
    assert serious == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]
