"""Takes the screenshots of the console for the documentation: ``python -m tools.screenshots``.

It starts the forwarder with its demo upstream, sends a few requests, and opens the pages in
Chromium (see ``tests/live/browser.py`` for what has to be installed).
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from forwarder.storage.db import open_database
from forwarder.storage.db.usage import HOUR_SECONDS, UsageCounts, UsageKey
from forwarder.storage.repositories.usage import UsageRepository
from tests.live.browser import open_page, run_browser
from tests.live.server import run_forwarder

IMAGES = Path(__file__).parents[1] / "docs" / "images"

REQUEST = {
    "model": "demo",
    "input": "What is the weather in Rome?",
    "stream": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "tools": [
        {"type": "function", "name": "get_weather", "parameters": {"type": "object"}},
        {"type": "computer_use_preview"},
    ],
}


def take_screenshots() -> None:
    """Write all screenshots into the documentation's folder."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = f"sqlite:///{folder}/forwarder.db"
        fill_usage(database)
        environment = {
            "FORWARDER_DATABASE_URL": database,
            "FORWARDER_CAPTURE": str(folder / "captures"),
            "FORWARDER_PRICES": "demo=0.5/0.05/4",
        }
        with run_forwarder(environment, folder) as server, run_browser() as browser:
            send_requests(server.v1)
            for scheme in ("light", "dark"):
                with open_page(browser, scheme) as page:
                    take_pages(page, server.url, scheme)


def fill_usage(database_url: str) -> None:
    """Store a week of usage for the charts."""
    database = open_database(database_url)
    assert database is not None
    generator = random.Random(1)
    last = int(time.time()) // HOUR_SECONDS * HOUR_SECONDS
    rows = []
    for hour in range(last - 7 * 24 * HOUR_SECONDS, last, HOUR_SECONDS):
        daily = 1.3 + math.sin((hour / HOUR_SECONDS - 9) / 24 * 2 * math.pi)
        for client in ("alice", "bob", "ci"):
            count = max(1, int(generator.gauss(20, 6) * daily))
            counts = UsageCounts(
                requests=count,
                errors=count // 15,
                input_tokens=1500 * count,
                cached_tokens=600 * count,
                output_tokens=220 * count,
                reasoning_tokens=90 * count,
                first_events=count,
                first_event_ms=count * generator.randint(300, 600),
                duration_ms=count * 2500,
            )
            rows.append((UsageKey(hour, client, "demo", "chat"), counts))
    UsageRepository(database).add_counts(rows)
    database.close()


def send_requests(base_url: str) -> None:
    """Send requests that the pages show."""
    for body in (REQUEST, {**REQUEST, "tools": []}):
        httpx2.post(f"{base_url}/responses", json=body, timeout=10).raise_for_status()
    time.sleep(1)  # captures are written after the answer


def take_pages(page: Any, base_url: str, scheme: str) -> None:
    """Open the pages and take a screenshot of each."""

    def take(name: str) -> None:
        page.wait_for_timeout(500)
        page.screenshot(path=IMAGES / f"{name}-{scheme}.png")

    page.goto(base_url)
    take("start")
    page.goto(f"{base_url}/console/usage?period=7d&group=client")
    take("usage")
    page.goto(f"{base_url}/console/exchanges")
    page.locator("tbody tr a").last.click()
    page.wait_for_load_state()
    page.get_by_role("heading", name="Dropped").evaluate("e => scrollTo(0, e.offsetTop - 10)")
    take("exchange")
    page.goto(f"{base_url}/console/playground")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Finished", exact=False).wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    take("playground")


if __name__ == "__main__":
    take_screenshots()
