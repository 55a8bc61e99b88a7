"""The console follows exchanges of all workers of a real server while they run."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.console.records import HOSTILE
from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.browser import NEEDS_BROWSER, VIEWS, check_page, open_page, run_browser
from tests.live.conftest import make_settings
from tests.live.server import GUNICORN, Server, run_forwarder
from tests.live.talk import http, make_body

ADMIN = "sk-admin-4712"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
PATH = "/console/exchanges"
Event = tuple[str, str]


@pytest.fixture
def server(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Server]:
    """Two workers with one capture directory."""
    upstream.forget()
    settings = make_settings(
        upstream,
        FORWARDER_CAPTURE=str(tmp_path / "exchanges"),
        FORWARDER_ADMIN_KEYS=ADMIN,
        FORWARDER_KEEPALIVE="0.5",
    )
    with run_forwarder(settings, tmp_path, (*GUNICORN, "-w", "2")) as server:
        yield server


@contextmanager
def follow(server: Server, query: str = "") -> Iterator[Iterator[Event]]:
    """Yield the events of the stream, as kind and data; heartbeats are ``("", "")``."""
    with http.stream("GET", f"{server.url}{PATH}/stream{query}", headers=HEADERS) as answer:
        assert answer.status_code == 200, answer.read()

        def read_events() -> Iterator[Event]:
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = fields.get(name, "") + value
                elif "retry" not in fields:
                    yield fields.get("event", ""), fields.get("data", "")
                if not line:
                    fields = {}

        yield read_events()


def start_stream(server: Server, upstream: ScriptedUpstream, seconds: float) -> threading.Thread:
    """Start a request with an answer that is streamed for so long."""
    upstream.script(faults.slow_down(Answer(text="word " * 60, pieces=60), delay=seconds / 60))
    body = make_body("responses", "tell me", model="chat/m", stream=True)
    thread = threading.Thread(
        target=http.post, args=(f"{server.v1}/responses",), kwargs={"json": body}
    )
    thread.start()
    return thread


def find_row(events: Iterator[Event], state: str) -> str:
    """Return the id of the next row with this state."""
    for kind, data in events:
        if kind == "row" and f'data-state="{state}"' in data:
            match = re.search(r'id="(\w+)"', data)
            assert match
            return match[1]
    raise AssertionError("the stream has ended")


def test_every_worker_shows_an_exchange_while_it_runs_and_its_end(
    server: Server, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    # Several connections, since the system chooses the worker of each.
    with follow(server) as one, follow(server) as two, follow(server) as three:
        request_thread = start_stream(server, upstream, seconds=6)
        name = find_row(one, "running")
        assert [find_row(each, "running") for each in (two, three)] == [name, name]

        def read_pages() -> bool:
            pages = [http.get(f"{server.url}{PATH}/{name}", headers=HEADERS).text for _ in range(4)]
            return all("response.output_text.delta" in page for page in pages)

        wait_until(read_pages)
        assert request_thread.is_alive()
        assert (tmp_path / "exchanges" / "running" / f"{name}.json").exists()

        assert [find_row(each, "ok") for each in (one, two, three)] == [name] * 3
        request_thread.join()
    assert not list((tmp_path / "exchanges" / "running").iterdir())
    assert len(http.get(f"{server.url}/forwarder/exchanges", headers=HEADERS).json()["data"]) == 1


def test_streams_end_with_their_pages(server: Server) -> None:
    for _ in range(40):  # more than all workers serve at once
        with follow(server) as events:
            assert next(events)[0] == "running"


def test_shutdown_does_not_wait_for_streams(server: Server) -> None:
    with follow(server) as events:
        next(events)
        started_at = time.monotonic()
        server.process.terminate()

        for _ in events:
            pass
        server.process.wait(20)

    assert time.monotonic() - started_at < 8, "the shutdown waited for the grace time of 30 seconds"


# -- in a browser -----------------------------------------------------------------------------------


def needs_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Skip a test without a browser."""
    for mark in NEEDS_BROWSER:
        test = mark(test)
    return test


@pytest.fixture
def open_server(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Server]:
    """A server without keys, so its pages need no session."""
    upstream.forget()
    settings = make_settings(upstream, FORWARDER_CAPTURE=str(tmp_path / "exchanges"))
    with run_forwarder(settings, tmp_path, (*GUNICORN, "-w", "2")) as server:
        yield server


@needs_browser
def test_list_follows_an_exchange_to_its_end(
    open_server: Server, upstream: ScriptedUpstream
) -> None:
    with run_browser() as browser, open_page(browser) as page:
        page.goto(f"{open_server.url}{PATH}")
        page.get_by_text("Live", exact=True).last.wait_for()
        request_thread = start_stream(open_server, upstream, seconds=5)
        row = page.locator("tbody tr")
        row.get_by_text("running").wait_for()

        row.get_by_role("link").click()
        page.get_by_text("word word").first.wait_for()
        page.get_by_text("Of the answer to the client").click()
        page.locator("h1 .tag.good").wait_for()
        assert page.locator("#answer-headers").get_attribute("open") is not None
        assert "client receives" in page.locator(".waterfall").inner_text()
        request_thread.join()

        page.goto(f"{open_server.url}{PATH}")
        page.get_by_role("button", name="Pause").click()
        upstream.script(Answer(text="more"))
        http.post(f"{open_server.v1}/responses", json=make_body("responses", model="chat/m"))
        page.get_by_role("button", name="Resume (1)").wait_for()
        assert row.count() == 1
        page.keyboard.press("Enter")  # the button has the focus
        page.locator("tbody tr").nth(1).wait_for()


@needs_browser
def test_pages_of_hostile_exchanges_are_accessible_and_harmless(
    open_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text=HOSTILE, reasoning=HOSTILE), faults.refuse_with_status(429))
    for _ in range(2):
        body = make_body("responses", HOSTILE, model="chat/m", stream=True, user=HOSTILE[:60])
        http.post(f"{open_server.v1}/responses", json=body)
    addresses = [PATH]
    exchanges = http.get(f"{open_server.url}/forwarder/exchanges").json()["data"]
    addresses += [f"{PATH}/{each['id']}" for each in exchanges]

    with run_browser() as browser:
        for scheme, width in VIEWS:
            with open_page(browser, scheme, width) as page:
                page.on("dialog", lambda dialog: pytest.fail(dialog.message))
                for address in addresses:
                    page.goto(open_server.url + address)
                    for details in page.locator("details").all():
                        details.evaluate("each => { each.open = true; }")
                    check_page(page)
