"""The landing page and the console in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.browser import NEEDS_BROWSER, SCHEMES, WIDTHS, check_page, open_page, run_browser
from tests.live.conftest import Serve, settings
from tests.live.server import Server

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(
    serve: Serve, upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Server:
    captures = tmp_path_factory.mktemp("captures")
    return serve(settings(upstream, FORWARDER_CAPTURE=str(captures), WEB_CONCURRENCY="2"))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with open_page(browser) as page:
        yield page


PATHS = ("/", "/console/exchanges")


def test_pages_are_accessible_in_both_themes_and_on_a_phone(browser: Any, server: Server) -> None:
    for scheme in SCHEMES:
        for width in WIDTHS:
            with open_page(browser, scheme, width) as page:
                for path in PATHS:
                    page.goto(server.url + path)
                    page.wait_for_load_state("networkidle")
                    check_page(page)


def test_landing_page_shows_upstreams_and_copies_a_base_url(page: Any, server: Server) -> None:
    page.goto(server.url)

    page.get_by_text("reachable", exact=False).first.wait_for()
    page.get_by_role("button", name="Copy for Codex CLI").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f'openai_base_url = "{server.v1}"'


def test_theme_is_switched_and_remembered(page: Any, server: Server) -> None:
    page.goto(server.url)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.goto(f"{server.url}/console/exchanges")

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
