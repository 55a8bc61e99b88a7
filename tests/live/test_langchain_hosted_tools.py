"""LangChain's built-in tools over a Chat upstream: the forwarder runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.helpers.loopback import Peer, run_server
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp
from tests.live.clients import needs_python_package
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server
from tests.live.test_langchain import add_chunks, text_of

pytestmark = needs_python_package("langchain_openai")

RESULT = {"title": "Cats", "url": "https://example.org/cats", "content": "Cats sleep."}


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Iterator[Server]:
    """A forwarder with a search engine, stored files, and MCP servers on loopback."""

    def answer(peer: Peer) -> None:
        peer.request()
        peer.answer(json.dumps({"results": [RESULT]}).encode(), b"Connection: close")

    with run_server(answer) as searxng:
        settings = make_settings(
            upstream,
            FORWARDER_API_KEYS="k",
            FORWARDER_REMOTE_ALLOW="127.0.0.1",
            FORWARDER_FILES="store",
            FORWARDER_WEB_SEARCH="searxng",
            FORWARDER_WEB_SEARCH_URL=f"http://127.0.0.1:{searxng.port}",
        )
        yield serve(settings)


@pytest.fixture(scope="module")
def tools(forwarder: Server) -> Iterator[list[Any]]:
    """The three tools; the vector store has one file."""
    with (
        serving_mcp("--protected") as root,
        OpenAI(base_url=forwarder.v1, api_key="k", max_retries=0) as client,
    ):
        store = client.vector_stores.create(name="manuals")
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id,
            file=("manual.txt", b"To reset the device, hold the button."),
            poll_interval_ms=50,
        )
        yield [
            {"type": "web_search"},
            {"type": "file_search", "vector_store_ids": [store.id]},
            {
                "type": "mcp",
                "server_label": "tests",
                "server_url": f"{root}/mcp",
                "authorization": TOKEN,
                "require_approval": "never",
            },
        ]


def make_model(forwarder: Server, tools: list[Any], **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(
        model="chat/scripted",
        base_url=forwarder.v1,
        api_key="k",
        use_responses_api=True,
        max_retries=0,
        timeout=10,
        **options,
    )
    return llm.bind_tools(tools)


def list_types(message: Any) -> list[str]:
    return [block["type"] for block in message.content]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_are_run_and_cited(
    forwarder: Server, upstream: ScriptedUpstream, tools: list[Any], streamed: bool
) -> None:
    calls = [
        Call("web_search", {"query": "cats"}),
        Call("file_search", {"query": "reset"}),
        Call("tests__echo", {"text": "hi"}),
    ]
    upstream.script(
        Answer(calls=calls),
        Answer(text="They sleep ([Cats](https://example.org/cats))."),
        Answer(text="Bye."),
    )
    llm = make_model(forwarder, tools)
    first = add_chunks(llm.stream("go")) if streamed else llm.invoke("go")

    assert text_of(first).startswith("They sleep")
    results = [m["content"] for m in upstream.requests[1].body["messages"] if m["role"] == "tool"]
    assert ["Cats sleep." in results[0], "hold the button" in results[1], results[2]] == [
        True, True, "hi"
    ]  # fmt: skip
    assert sorted(list_types(first)) == [
        "file_search_call", "mcp_call", "mcp_list_tools", "text", "web_search_call"
    ]  # fmt: skip
    (citation,) = first.content[-1]["annotations"]
    assert (citation["type"], citation["url"]) == ("url_citation", "https://example.org/cats")

    second = llm.invoke([("human", "go"), first, ("human", "bye")])
    assert text_of(second) == "Bye."
    messages = upstream.requests[2].body["messages"]
    assert [m["role"] for m in messages] == [
        "user", "assistant", "tool", "tool", "tool", "assistant", "user"
    ]  # fmt: skip


def test_tool_is_approved_in_the_next_turn(
    forwarder: Server, upstream: ScriptedUpstream, tools: list[Any]
) -> None:
    upstream.script(Answer(calls=[Call("tests__echo", {"text": "hi"})]), Answer(text="It said hi."))
    llm = make_model(forwarder, [{**tools[2], "require_approval": "always"}])
    first = llm.invoke("go")
    (request,) = [each for each in first.content if each["type"] == "mcp_approval_request"]
    answer = {
        "type": "mcp_approval_response",
        "approve": True,
        "approval_request_id": request["id"],
    }
    previous = first.response_metadata["id"]
    second = llm.invoke([{"role": "user", "content": [answer]}], previous_response_id=previous)

    assert text_of(second) == "It said hi."
    assert upstream.requests[-1].body["messages"][-1]["content"] == "hi"
