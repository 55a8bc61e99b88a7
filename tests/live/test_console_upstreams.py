"""The console's pages of upstreams and registered models in a real browser, with two workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.browser import NEEDS_BROWSER, VIEWS, check_page, open_page, run_browser
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """A strict provider with quirks."""
    with ScriptedUpstream(keys={KEY}, refuse={"stream_options"}) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def server(
    serve: Serve, upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Server:
    database = tmp_path_factory.mktemp("models") / "state.db"
    return serve(
        make_settings(
            upstream,
            FORWARDER_UPSTREAMS="chat,responses,away",
            RESPONSES_API="responses",
            AWAY_BASE_URL="http://127.0.0.1:9/v1",
            FORWARDER_DATABASE_URL=f"sqlite:///{database}",
            FORWARDER_REMOTE_ALLOW="127.0.0.1",
            FORWARDER_READY_TTL="0",
            WEB_CONCURRENCY="2",
        )
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with run_browser() as browser:
        yield browser


def fill_form(page: Any, server: Server, host: str) -> None:
    page.goto(f"{server.url}/console/models/new")
    page.fill("#model", "mine")
    page.fill("#from", "scripted")
    page.fill("#remote_host", host)
    page.fill("#remote_api_key", KEY)


def test_model_is_registered_checked_probed_and_deleted(
    browser: Any, server: Server, upstream: ScriptedUpstream
) -> None:
    with open_page(browser) as page:
        fill_form(page, server, upstream.url)
        page.get_by_role("button", name="Register").click()
        page.get_by_text("Saved: mine:latest").wait_for()
        check = page.get_by_role("button", name="Check now mine:latest")
        check.focus()
        with page.expect_response("**/console/models/check/*"):
            page.keyboard.press("Enter")
        page.locator("[id='check-mine:latest']:focus").wait_for()

        page.goto(f"{server.url}/console/upstreams/probes/mine:latest")
        page.get_by_role("button", name="Probe").click()
        page.get_by_role("button", name="Store with the model").click()
        page.get_by_text("Saved: mine:latest").wait_for()
        page.get_by_role("link", name="Edit mine:latest").click()
        assert '"stream_options": false' in page.input_value("#quirks")
        assert page.input_value("#remote_api_key") == ""
        check_page(page)

        page.get_by_role("link", name="Delete …").click()
        page.get_by_role("button", name="Delete mine:latest").click()
        page.get_by_text("The model is deleted.").wait_for()


def test_error_is_focused_and_secrets_stay_in_the_form(browser: Any, server: Server) -> None:
    context = browser.new_context()  # the console of this page reports the status 400
    page = context.new_page()
    page.set_default_timeout(15_000)
    fill_form(page, server, "http://127.0.0.1:9/v1")
    page.get_by_role("button", name="Register").click()
    page.wait_for_selector("#remote_host-error:not(:empty)")
    page.locator("#remote_host:focus").wait_for()
    assert page.input_value("#remote_api_key") == KEY

    page.fill("#remote_api_key", "not ascii: ä")
    page.get_by_role("button", name="Register").click()
    page.wait_for_selector("#remote_api_key-error:not(:empty)")
    page.locator("#remote_api_key:focus").wait_for()
    invalid = "[...document.querySelectorAll('[aria-invalid]')].map(field => field.id)"
    assert page.evaluate(invalid) == ["remote_api_key"]
    check_page(page)
    context.close()


def test_states_load_beside_the_page_and_are_refreshed(browser: Any, server: Server) -> None:
    with open_page(browser) as page:
        page.goto(f"{server.url}/console/upstreams")
        page.get_by_text("127.0.0.1:9 refused the connection").wait_for()
        with page.expect_response("**/console/upstreams/states/chat"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_probe_without_scripts_ends_with_its_setting(browser: Any, server: Server) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(f"{server.url}/console/upstreams")
    page.get_by_role("link", name="Probe its quirks (chat)").click()
    page.get_by_role("button", name="Probe").click()
    assert '"stream_options": false' in page.inner_text("#setting")
    page.get_by_role("button", name="Use in this worker for an hour").click()
    assert "adapts requests" in page.inner_text("main")
    context.close()


def test_pages_are_accessible_in_both_themes_and_on_a_phone(
    browser: Any, server: Server, upstream: ScriptedUpstream
) -> None:
    with open_page(browser) as page:
        fill_form(page, server, upstream.url)
        page.get_by_role("button", name="Register").click()
        page.get_by_text("Saved: mine:latest").wait_for()
    paths = ("upstreams", "models/new", "models/edit/mine:latest", "upstreams/probes/chat")
    for scheme, width in VIEWS:
        with open_page(browser, scheme, width) as page:
            for path in paths:
                page.goto(f"{server.url}/console/{path}")
                page.wait_for_load_state("networkidle")
                check_page(page)
