"""The page of the OpenAPI document in a real browser, under its Content-Security-Policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.browser import NEEDS_BROWSER, open_page, run_browser
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream) -> Server:
    return serve(make_settings(upstream))


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    with run_browser() as browser, open_page(browser) as page:
        page.on("request", lambda request: check_address(request.url, server))
        yield page


def check_address(url: str, server: Server) -> None:
    assert url.startswith((server.url, "data:")), f"the page loads {url}"


def test_page_shows_operations_and_sends_requests(page: Any, server: Server) -> None:
    """Violations of the policy would be errors of the console, which fail the test."""
    page.goto(f"{server.url}/docs/api")
    page.get_by_role("heading", name="Responses Forwarder").wait_for()
    page.locator("#operations-tag-Probes button").click()
    page.locator("#operations-Probes-healthHealthGet .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()

    page.locator(".live-responses-table").get_by_text('"ok"').wait_for()


def test_page_shows_the_types_of_an_operation(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/docs/api#/Responses/openaiResponsesPost")
    page.locator("#operations-Responses-openaiResponsesPost .opblock-body").wait_for()
    page.get_by_role("tab", name="Schema").first.click()

    page.get_by_text("previous_response_id").first.wait_for()
