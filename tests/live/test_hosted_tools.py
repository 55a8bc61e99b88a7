"""The Agents SDK's hosted tools over a Chat upstream: the forwarder runs them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.helpers.loopback import Peer, run_server
from tests.helpers.loopback import Server as Loopback
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp
from tests.live.clients import needs_python_package
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server

pytestmark = needs_python_package("agents")

streams = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
RESULT = {"title": "Cats", "url": "https://example.org/cats", "content": "Cats sleep."}


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    with serving_mcp("--protected") as root:
        yield root


@pytest.fixture(scope="module")
def searxng() -> Iterator[str]:
    def answer(peer: Peer) -> None:
        peer.request()
        peer.answer(json.dumps({"results": [RESULT]}).encode(), b"Connection: close")

    with run_server(answer) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream, searxng: str) -> Server:
    """A forwarder that may call loopback, and searches by a server of SearXNG's shape."""
    return serve(
        make_settings(
            upstream,
            FORWARDER_API_KEYS="k",
            FORWARDER_REMOTE_ALLOW="127.0.0.1",
            FORWARDER_FILES="store",
            FORWARDER_WEB_SEARCH="searxng",
            FORWARDER_WEB_SEARCH_URL=searxng,
        )
    )


def run(forwarder: Server, tools: list[Any], streamed: bool, input_items: Any = "go") -> Any:
    """The result of an agent with these tools and the model of a Chat upstream."""
    import agents

    async def answer() -> Any:
        async with AsyncOpenAI(base_url=forwarder.v1, api_key="k", max_retries=0) as client:
            model = agents.OpenAIResponsesModel("chat/scripted", client)
            agent = agents.Agent(name="a", model=model, tools=tools)
            config = agents.RunConfig(tracing_disabled=True)
            if not streamed:
                return await agents.Runner.run(agent, input_items, run_config=config)
            result = agents.Runner.run_streamed(agent, input_items, run_config=config)
            async for _ in result.stream_events():
                pass
            return result

    return asyncio.run(answer())


def hosted_mcp(root: str, approval: str, on_approval: Callable[[Any], Any] | None = None) -> Any:
    import agents

    config: Any = {
        "type": "mcp",
        "server_label": "tests",
        "server_url": f"{root}/mcp",
        "authorization": TOKEN,
        "require_approval": approval,
    }
    return agents.HostedMCPTool(tool_config=config, on_approval_request=on_approval)


@streams
def test_hosted_mcp_tool_is_run(
    forwarder: Server, upstream: ScriptedUpstream, root: str, streamed: bool
) -> None:
    upstream.script(
        Answer(calls=[Call("tests__echo", '{"text":"hi"}')]), Answer(text="It said hi.")
    )
    result = run(forwarder, [hosted_mcp(root, "never")], streamed)
    assert result.final_output == "It said hi."
    outputs = [item for response in result.raw_responses for item in response.output]
    assert [item.type for item in outputs] == ["mcp_list_tools", "mcp_call", "message"]
    assert outputs[1].output == "hi"


def test_hosted_mcp_tool_is_approved_by_the_sdk(
    forwarder: Server, upstream: ScriptedUpstream, root: str
) -> None:
    approval_requests: list[Any] = []

    def approve(request: Any) -> Any:
        approval_requests.append(request.data.name)
        return {"approve": True}

    upstream.script(Answer(calls=[Call("tests__add", '{"a":1,"b":2}')]), Answer(text="3."))
    result = run(forwarder, [hosted_mcp(root, "always", approve)], False)
    assert (approval_requests, result.final_output) == (["add"], "3.")
    messages = upstream.requests[-1].body["messages"]
    assert messages[-1]["content"] == "3"


@streams
def test_web_search_tool_is_run_and_cited(
    forwarder: Server, upstream: ScriptedUpstream, streamed: bool
) -> None:
    import agents

    text = "They sleep ([Cats](https://example.org/cats))."
    upstream.script(Answer(calls=[Call("web_search", '{"query":"cats"}')]), Answer(text=text))
    result = run(forwarder, [agents.WebSearchTool()], streamed)
    search, message = result.raw_responses[0].output
    assert (search.type, search.status, search.action.query) == (
        "web_search_call", "completed", "cats"
    )  # fmt: skip
    (citation,) = message.content[0].annotations
    assert (citation.type, citation.url) == ("url_citation", "https://example.org/cats")
    assert text[citation.start_index : citation.end_index].startswith("[Cats]")


@streams
def test_file_search_tool_is_run_and_cited(
    forwarder: Server, upstream: ScriptedUpstream, streamed: bool
) -> None:
    import agents

    with OpenAI(base_url=forwarder.v1, api_key="k", max_retries=0) as client:
        store = client.vector_stores.create(name="manuals")
        content = ("manual.txt", b"To reset the device, hold the button.")
        stored_file = client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=content, poll_interval_ms=50
        )
    text = f"Hold the button [{stored_file.id}]."
    upstream.script(Answer(calls=[Call("file_search", '{"query":"reset"}')]), Answer(text=text))
    tool = agents.FileSearchTool(vector_store_ids=[store.id], include_search_results=True)
    result = run(forwarder, [tool], streamed)
    search, message = result.raw_responses[0].output
    assert (search.type, search.status, search.queries) == (
        "file_search_call", "completed", ["reset"]
    )  # fmt: skip
    assert [document.filename for document in search.results] == ["manual.txt"]
    (citation,) = message.content[0].annotations
    assert (citation.type, citation.file_id) == ("file_citation", stored_file.id)
    assert "hold the button" in upstream.requests[-1].body["messages"][-1]["content"]


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


@pytest.fixture(scope="module")
def images() -> Iterator[Loopback]:
    """An images API that streams one draft."""

    def answer(peer: Peer) -> None:
        is_edit = b"/images/edits" in peer.request()
        if is_edit:
            body = json.dumps({"data": [{"b64_json": PNG}]}).encode()
            return peer.answer(body, b"Content-Type: application/json", b"Connection: close")
        draft = {"type": "image_generation.partial_image", "b64_json": PNG}
        done = {"type": "image_generation.completed", "b64_json": PNG, "size": "1024x1024"}
        body = b"".join(f"data: {json.dumps(each)}\n\n".encode() for each in (draft, done))
        return peer.answer(body, b"Content-Type: text/event-stream", b"Connection: close")

    with run_server(answer) as server:
        yield server


@pytest.fixture(scope="module")
def image_forwarder(serve: Serve, upstream: ScriptedUpstream, images: Loopback) -> Server:
    return serve(
        make_settings(
            upstream,
            FORWARDER_UPSTREAMS="chat,responses,pics",
            PICS_API="responses",
            PICS_BASE_URL=f"http://127.0.0.1:{images.port}/v1",
            PICS_API_KEY="sk-pics",
            FORWARDER_IMAGE_GENERATION="images:pics/gpt-image-2",
        )
    )


@streams
def test_image_generation_tool_is_run_and_edits_in_the_next_turn(
    image_forwarder: Server, upstream: ScriptedUpstream, images: Loopback, streamed: bool
) -> None:
    import agents

    images.requests.clear()
    upstream.script(
        Answer(calls=[Call("image_generation", '{"prompt":"a cat"}')]), Answer(text="Here."),
        Answer(calls=[Call("image_generation", '{"prompt":"darker","action":"edit"}')]),
        Answer(text="Darker."),
    )  # fmt: skip
    config: Any = {"type": "image_generation", "quality": "low", "partial_images": 1}
    tools = [agents.ImageGenerationTool(tool_config=config)]
    first = run(image_forwarder, tools, streamed)
    image, message = first.raw_responses[0].output
    assert (image.type, image.status, image.result) == ("image_generation_call", "completed", PNG)
    assert (message.type, first.final_output) == ("message", "Here.")
    next_input = [*first.to_input_list(), {"role": "user", "content": "darker"}]
    second = run(image_forwarder, tools, streamed, next_input)
    assert second.raw_responses[0].output[0].action == "edit"
    generation_request, edit_request = images.requests
    assert b'"quality":"low"' in generation_request
    assert b"sk-pics" in generation_request
    assert b'name="image"; filename="image.png"' in edit_request
    messages = upstream.requests[2].body["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "assistant", "user"]
