"""The landing page and the console in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.fake_provider import Answer, Call, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.browser import (
    NEEDS_BROWSER,
    PHONE_WIDTH,
    SCHEMES,
    VIEWS,
    check_page,
    open_page,
    run_browser,
)
from tests.live.conftest import Serve, make_settings
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
    return serve(make_settings(upstream, FORWARDER_CAPTURE=str(captures), WEB_CONCURRENCY="2"))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with open_page(browser) as page:
        yield page


PATHS = ("/", "/console/exchanges", "/console/playground", "/console/usage", "/console/keys")


def test_pages_are_accessible_in_both_themes_and_on_a_phone(browser: Any, server: Server) -> None:
    for scheme, width in VIEWS:
        with open_page(browser, scheme, width) as page:
            for path in PATHS:
                page.goto(server.url + path)
                page.wait_for_load_state("networkidle")
                check_page(page)


def test_pages_of_an_exchange_are_accessible_and_fit_a_phone(
    browser: Any, server: Server, upstream: ScriptedUpstream
) -> None:
    tool = {"type": "function", "name": "write_file_" + "x" * 50, "parameters": {"type": "object"}}
    arguments = json.dumps({"path": "/long" * 100, "content": "x" * 900})
    upstream.script(Answer("word " * 300, calls=[Call(tool["name"], arguments)]))
    body = {"model": "chat/" + "m" * 80, "input": "hi " * 300, "stream": True, "tools": [tool]}
    httpx2.post(f"{server.v1}/responses", json=body).raise_for_status()
    [exchange] = wait_until(
        lambda: [
            each["id"]
            for each in httpx2.get(f"{server.url}/forwarder/exchanges").json()["data"]
            if "mmmm" in each["model"]
        ]
    )
    created = {"model": "long-name-" * 6, "from": "chat/m", "stream": False}
    httpx2.post(f"{server.url}/api/create", json=created).raise_for_status()
    for scheme in SCHEMES:
        with open_page(browser, scheme, PHONE_WIDTH) as page:
            for path in (f"exchanges/{exchange}/replay", f"playground?exchange={exchange}"):
                page.goto(f"{server.url}/console/{path}")
                page.wait_for_load_state("networkidle")
                check_page(page)
            page.goto(f"{server.url}/console/exchanges/{exchange}")
            page.locator(".events summary").nth(2).click()
            page.locator(".events pre").first.wait_for()
            check_page(page)


def test_landing_page_shows_upstreams_and_copies_a_base_url(page: Any, server: Server) -> None:
    page.goto(server.url)

    page.get_by_text("reachable", exact=False).first.wait_for()
    page.get_by_role("button", name="Copy for Codex CLI").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f'openai_base_url = "{server.v1}"'
    page.get_by_text("Copied").wait_for()
    page.get_by_role("button", name="Copy for Codex CLI").click()
    page.get_by_text("Copied").wait_for(state="hidden")


def test_charts_are_in_utc(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/console/usage?period=30d")
    page.locator(".u-over").first.hover()

    page.locator(".u-legend").first.get_by_text(" 00:00").wait_for()


def test_theme_is_switched_and_remembered(page: Any, server: Server) -> None:
    page.goto(server.url)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.goto(f"{server.url}/console/exchanges")

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


# -- playground -----------------------------------------------------------------------------------


HOSTILE = "</script><img src=x onerror=alert(1)>\u202e"


def wait_for_state(page: Any, text: str) -> None:
    page.locator("#state").get_by_text(text, exact=False).wait_for()


def test_playground_translates_while_one_types_and_shows_both_streams(
    page: Any, server: Server, upstream: ScriptedUpstream
) -> None:
    page.goto(f"{server.url}/console/playground")
    page.get_by_role("cell", name="carried").first.wait_for()
    previews: list[str] = []
    page.on("request", lambda each: previews.append(each.url) if "/preview" in each.url else None)

    page.get_by_label("Request", exact=True).fill("")
    text = '{"model": "m", "input": "hi", "stream": true, "tools": [{"type": "web_search"}]}'
    page.get_by_label("Request", exact=True).press_sequentially(text, delay=5)
    page.get_by_role("cell", name="dropped").wait_for()
    assert len(previews) < 5

    text = HOSTILE + " word" * 2000
    upstream.script(Answer(text, pieces=2000))
    page.get_by_role("button", name="Send").click()
    wait_for_state(page, "Finished")

    for side in ("client", "upstream"):
        text_shown = page.locator(f"[data-side={side}] [data-kind=text] pre").inner_text()
        assert text_shown == text.replace("\u202e", "\\u202e")
    assert page.locator("#sides img").count() == 0
    assert "tools.web_search" in page.locator("[data-side=client] [data-role=facts]").inner_text()
    check_page(page)

    page.get_by_role("link", name="Open the captured exchange").click()
    page.wait_for_load_state("networkidle")
    assert "/console/exchanges/" in page.url


def test_a_tool_call_is_shown_side_by_side_in_both_directions(
    page: Any, server: Server, upstream: ScriptedUpstream
) -> None:
    for sample, target in (("responses/tools", "chat"), ("chat/tools", "responses")):
        page.goto(f"{server.url}/console/playground?sample={sample}")
        page.get_by_label("Upstream", exact=True).select_option(f"upstream:{target}")
        upstream.script(Answer(reasoning="Rome", calls=[Call("get_weather", '{"city": "Rome"}')]))
        page.get_by_role("button", name="Send").click()
        wait_for_state(page, "Finished")
        assert page.locator("#sides").get_by_text('{"city": "Rome"}').count() >= 2

        page.wait_for_load_state("networkidle")  # leaving aborts a preview, which htmx reports
        page.get_by_role("link", name="Open the captured exchange").click()
        page.get_by_role("heading", name="Exchange").wait_for()
        tools = page.locator("table.comparison tr", has=page.get_by_role("rowheader", name="tools"))
        assert "mapped" in tools.first.inner_text()
        assert tools.first.locator("pre").count() == 2
        assert page.locator("table.waterfall").get_by_text("tool call").count() == 1
        assert page.get_by_text("get_weather", exact=True).count() >= 2
        check_page(page)


def test_playground_shows_where_a_mistake_is(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/console/playground")
    page.get_by_label("Request", exact=True).fill('{"model": "m",\n "input": hi}')
    page.get_by_role("button", name="Go to line 2, column 11").click()

    expression = "((area) => [area.selectionStart, area === document.activeElement])"
    assert page.locator("#body").evaluate(expression) == [25, True]
    page.get_by_role("button", name="Send").click()
    wait_for_state(page, "Not sent: Line 2, column 11")


def test_playground_stops_an_answer(page: Any, server: Server, upstream: ScriptedUpstream) -> None:
    page.goto(f"{server.url}/console/playground")
    for answer, state in (
        (faults.stall(Answer("one two three"), after=2), "The answer arrives"),
        (faults.never_answer(), "Waiting for the upstream"),
    ):
        upstream.script(answer)
        request_count = len(upstream.requests)
        page.get_by_role("button", name="Send").click()
        wait_for_state(page, state)
        wait_until(lambda request_count=request_count: len(upstream.requests) > request_count)
        page.get_by_role("button", name="Stop").click()

        wait_for_state(page, "Stopped.")
        assert page.evaluate("document.activeElement.id") == "stop"
        assert upstream.requests[-1].closed_by_client.wait(10)
    assert page.get_by_role("button", name="Send").is_enabled()


def test_exchange_is_replayed(page: Any, server: Server, upstream: ScriptedUpstream) -> None:
    page.goto(f"{server.url}/console/playground?sample=responses/text")
    page.get_by_role("button", name="Send").click()
    wait_for_state(page, "Finished")
    href = page.locator("#exchange a").get_attribute("href").removesuffix("/replay")
    page.goto(f"{server.url}{href}/replay")
    page.get_by_role("button", name="Replay").click()

    page.locator("#result").get_by_text("The answer equals the captured one").wait_for()
    check_page(page)


def test_operator_signs_in_and_out(page: Any, serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream, FORWARDER_ADMIN_KEYS="adm-secret"))
    page.goto(f"{server.url}/console/usage?period=7d")
    page.get_by_label("Administrator key").fill("adm-secret")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Usage").wait_for()
    assert page.url.endswith("/console/usage?period=7d")

    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="The forwarder is running").wait_for()
    page.goto(f"{server.url}/console/usage")
    page.get_by_role("heading", name="Sign in").wait_for()


def test_key_is_made_copied_limited_rotated_and_revoked(
    browser: Any, serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream))
    for scheme, width in VIEWS:
        name = f"alice-{scheme}"
        with open_page(browser, scheme, width) as page:
            page.goto(server.url + "/console/keys")
            page.get_by_label("Name").fill(name)
            check_page(page)
            page.get_by_label("Budget").fill("5 usd/month")
            page.get_by_role("button", name="Create key").click()
            page.get_by_role("button", name="Copy the key").click()
            check_page(page)
            first = page.evaluate("navigator.clipboard.readText()")
            assert first.startswith("sk-fwd-")
            assert request_with_key(server, first) == 200

            page.get_by_role("link", name="Back to the keys").click()
            assert first not in page.content()
            check_page(page)
            page.get_by_role("link", name=f"Edit {name}").click()
            check_page(page)
            page.get_by_label("Requests per minute").fill("1,000")
            page.get_by_role("button", name="Save").click()
            page.get_by_text("1,000 requests a minute").first.wait_for()

            page.get_by_role("link", name=f"Rotate {name}").click()
            check_page(page)
            page.get_by_role("button", name="Rotate the key").click()
            second = page.locator("#secret").text_content()
            assert [request_with_key(server, key) for key in (first, second)] == [401, 200]

            page.goto(server.url + "/console/keys")
            page.get_by_role("link", name=f"Revoke {name}").click()
            check_page(page)
            page.get_by_role("button", name=f"Revoke the key of {name}").click()
            page.get_by_text("revoked").first.wait_for()
            assert request_with_key(server, second) == 401


def request_with_key(server: Server, key: str) -> int:
    """Return the status of a request for the list of models."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.get(f"{server.v1}/models", headers=headers, trust_env=False).status_code
