"""Codex searches the web through the forwarder, over a Chat upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.helpers.loopback import Peer, run_server
from tests.live.clients import needs_node_package
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server
from tests.live.test_codex import ASKS_FOR_MODELS, CONFIG, UNATTENDED, run_codex

pytestmark = [pytest.mark.slow, needs_node_package("@openai/codex")]

RESULT = {"title": "Cats", "url": "https://example.org/cats", "content": "Cats sleep."}
ANSWER = "They sleep ([Cats](https://example.org/cats))."
SEARCHES_ITSELF = "supports_standalone_web_search = true\n"
HAS_WEB_RUN = "[features]\nstandalone_web_search = true\n"


@pytest.fixture(scope="module")
def search_requests() -> list[bytes]:
    """The requests that the search engine received."""
    return []


@pytest.fixture(scope="module")
def forwarder(
    serve: Serve, upstream: ScriptedUpstream, search_requests: list[bytes]
) -> Iterator[Server]:
    """A forwarder that searches by a server of SearXNG's shape."""

    def answer(peer: Peer) -> None:
        search_requests.append(peer.request())
        peer.answer(json.dumps({"results": [RESULT]}).encode(), b"Connection: close")

    with run_server(answer) as server:
        search = {
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": f"http://127.0.0.1:{server.port}",
        }
        yield serve(make_settings(upstream) | search)


def run_codex_question(
    workspace: Path, forwarder: Server, provider_config: str = "", extra_config: str = ""
) -> str:
    config = CONFIG.format(
        model="chat/scripted", url=forwarder.v1, name="forwarder", websockets="false"
    )
    return run_codex(
        workspace,
        forwarder,
        config + provider_config + ASKS_FOR_MODELS + extra_config,
        UNATTENDED,
        "cats?",
    )


def test_hosted_search_is_run_by_the_forwarder(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream, search_requests: list[bytes]
) -> None:
    upstream.script(Answer(calls=[Call("web_search", {"query": "cats"})]), Answer(text=ANSWER))
    output = run_codex_question(workspace, forwarder)

    assert ANSWER in output
    assert b"q=cats" in search_requests[-1]
    result = upstream.requests[-1].body["messages"][-1]
    assert (result["role"], "Cats sleep." in result["content"]) == ("tool", True)


def test_codex_searches_itself_with_the_forwarders_engine(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream, search_requests: list[bytes]
) -> None:
    commands = {"search_query": [{"q": "sleepy cats", "recency": 7}]}
    upstream.script(Answer(calls=[Call("web__run", commands)]), Answer(text=ANSWER))
    output = run_codex_question(workspace, forwarder, SEARCHES_ITSELF, HAS_WEB_RUN)

    assert ANSWER in output
    assert b"q=sleepy+cats" in search_requests[-1]
    assert b"time_range=week" in search_requests[-1]
    tools = {tool["function"]["name"] for tool in upstream.requests[0].body["tools"]}
    assert "web__run" in tools
    assert "web_search" not in tools
    assert "- Cats\nURL: https://example.org/cats\nCats sleep." in json.dumps(
        upstream.requests[-1].body["messages"][-1]
    ).replace("\\n", "\n")
