"""Web pages that take long to parse, beside a neighbour on the worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.fake_provider import Answer, Call, ScriptedUpstream
from tests.helpers.loopback import Peer, run_server
from tests.live.conftest import KEY, Serve
from tests.live.neighbour import Neighbour
from tests.live.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.exhaustive]

MAX_PAGE_STALL = 0.1
"""Seconds that a neighbour may be stalled, beyond what the control waits."""

SLOW_HTML = b"<html><body>" + b"<li>word " * 55_000
"""500 KB, of which the parser needs seconds of processor time, and holds the interpreter for one."""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    def answer(peer: Peer) -> None:
        peer.request()
        peer.answer(SLOW_HTML, b"Content-Type: text/html", b"Connection: close")

    with run_server(answer) as server:
        yield f"http://127.0.0.1:{server.port}/"


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    scripted = {
        "FORWARDER_UPSTREAMS": "responses,chat,scripted,neighbour",
        "SCRIPTED_API": "chat",
        "SCRIPTED_BASE_URL": upstream.url,
        "SCRIPTED_API_KEY": KEY,
        "FORWARDER_API_KEYS": "k",
        "FORWARDER_FETCH_ALLOW": "127.0.0.1",
        "FORWARDER_WEB_SEARCH": "searxng",
        "FORWARDER_WEB_SEARCH_URL": "http://127.0.0.1:9",
        "WEB_CONCURRENCY": "1",
    }
    return serve(neighbour.settings | scripted)


def test_streams_go_on_while_a_page_is_parsed(
    server: Server, upstream: ScriptedUpstream, neighbour: Neighbour, page: str
) -> None:
    upstream.script(Answer(calls=[Call("web_open_page", {"url": page})]), Answer(text="Read."))
    with (
        neighbour.watch(server, MAX_PAGE_STALL),
        OpenAI(base_url=server.v1, api_key="k", max_retries=0) as client,
    ):
        response = client.responses.create(
            model="scripted/m", input="go", tools=[{"type": "web_search"}]
        )
    assert response.output_text == "Read."
    read = upstream.requests[-1].body["messages"][-1]["content"]
    assert "word" in read
