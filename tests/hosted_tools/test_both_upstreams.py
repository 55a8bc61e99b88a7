"""Hosted tools through the whole forwarder, over Chat and Responses upstreams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai
import pytest

from forwarder.protocols.messages import fold_messages
from tests.fake_provider import faults
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scripted import ScriptedUpstream
from tests.helpers.hosted import host_forwarder
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp
from tests.hosted_tools.scripted_upstream import check_stream
from tests.hosted_tools.search_server import PAGE, serving_search

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
CITED_TEXT = f"Cats sleep ([Cats]({PAGE['url']}))."
SEARCH: Any = {"type": "web_search"}
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


class Setup(NamedTuple):
    """A forwarder over ``upstream``; ``client`` is the SDK's, ``url`` the forwarder's address."""

    client: openai.OpenAI
    upstream: ScriptedUpstream
    url: str
    is_chat: bool

    def list_inputs(self, index: int) -> list[str]:
        """The types or roles of the conversation in a request to the upstream."""
        body = self.upstream.requests[index].body
        if self.is_chat:
            return [message["role"] for message in body["messages"]]
        if isinstance(body["input"], str):
            return ["message"]
        return [item.get("type") or "message" for item in body["input"]]


@pytest.fixture(scope="module")
def mcp_base_url() -> Iterator[str]:
    with serving_mcp("--protected") as mcp_base_url:
        yield mcp_base_url


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with serving_search() as url:
        yield url


UPSTREAMS = {
    "chat": {"CHAT_HOSTED_TOOLS": "none"},
    "vllm responses": {"RESPONSES_PROVIDER": "vllm"},
    "openai responses": {"RESPONSES_PROVIDER": "openai", "RESPONSES_HOSTED_TOOLS": "none"},
}


@pytest.fixture(params=UPSTREAMS)
def setup(request: pytest.FixtureRequest, engine_url: str, tmp_path: Path) -> Iterator[Setup]:
    with ScriptedUpstream() as upstream:
        name = "CHAT" if request.param == "chat" else "RESPONSES"
        environment = {
            **UPSTREAMS[request.param],
            f"{name}_BASE_URL": upstream.url,
            f"{name}_API_KEY": "u",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine_url,
            "FORWARDER_API_KEYS": "k",
            "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        with (
            host_forwarder(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            yield Setup(client, upstream, url, name == "CHAT")


def make_mcp_tool(mcp_base_url: str, **more: Any) -> Any:
    return {
        "type": "mcp",
        "server_label": "tests",
        "server_url": f"{mcp_base_url}/mcp",
        "authorization": TOKEN,
        "require_approval": "never",
        **more,
    }


def make_call_answer(name: str, **arguments: Any) -> Answer:
    return Answer(calls=[Call(name=name, arguments=json.dumps(arguments))])


def stream_events(setup: Setup, **body: Any) -> list[Json]:
    """The events of a stream without changes by the SDK."""
    with (
        httpx2.Client(headers={"Authorization": "Bearer k"}, timeout=30) as client,
        client.stream(
            "POST", f"{setup.url}/v1/responses", json={"model": "m", "stream": True, **body}
        ) as response,
    ):
        lines = [*response.iter_lines()]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    events = [json.loads(text) for text in data]
    for event in events:
        event.pop("obfuscation", None)  # OpenAI's padding, which the SDK does not declare
    return events


def test_streamed_search_is_valid_and_cited(setup: Setup) -> None:
    setup.upstream.script(
        Answer(text="Let me see.", calls=make_call_answer("web_search", query="cats").calls),
        Answer(text=CITED_TEXT),
    )
    response = check_stream(stream_events(setup, input="cats?", tools=[SEARCH]))
    first_message, search, message = response["output"]
    assert first_message["content"][0]["text"] == "Let me see."
    assert (search["type"], search["status"]) == ("web_search_call", "completed")
    assert message["content"][0]["annotations"][0]["url"] == PAGE["url"]
    assert response["tools"] == [SEARCH]
    first, second = (recorded.body for recorded in setup.upstream.requests)
    assert first["tools"] == second["tools"]
    round_usage = setup.client.responses.create(model="m", input="hi").usage  # of one round
    assert round_usage is not None
    assert response["usage"]["total_tokens"] == 2 * round_usage.total_tokens


def test_whole_search_equals_the_stream(setup: Setup) -> None:
    rounds = make_call_answer("web_search", query="cats"), Answer(text=CITED_TEXT)
    setup.upstream.script(*rounds, *rounds)
    response = setup.client.responses.create(model="m", input="cats?", tools=[SEARCH])
    streamed = check_stream(stream_events(setup, input="cats?", tools=[SEARCH]))
    kinds = [item.type for item in response.output]
    assert kinds == [item["type"] for item in streamed["output"]] == ["web_search_call", "message"]
    assert response.output_text == CITED_TEXT
    message: Any = response.output[1]
    assert message.content[0].annotations[0].url == PAGE["url"]
    assert response.usage is not None
    assert response.usage.total_tokens == streamed["usage"]["total_tokens"]


def test_search_of_a_messages_client_runs_in_the_forwarder(setup: Setup) -> None:
    """Whole and streamed answers have citations of the pages."""
    rounds = make_call_answer("web_search", query="cats"), Answer(text=CITED_TEXT)
    setup.upstream.script(*rounds, *rounds)
    body = {
        "model": "m",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "cats?"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    }
    with httpx2.Client(headers={"X-Api-Key": "k"}, timeout=30) as client:
        message_body = client.post(f"{setup.url}/v1/messages", json=body).json()
        streamed = client.post(f"{setup.url}/v1/messages", json={**body, "stream": True}).text

    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")]
    for message in (message_body, fold_messages(iter([events]))):
        text = message["content"][-1]
        assert text["text"] == CITED_TEXT
        assert [citation["url"] for citation in text["citations"]] == [PAGE["url"]]
        kinds = [block["type"] for block in message["content"][:-1]]
        assert kinds == ([] if setup.is_chat else ["server_tool_use", "web_search_tool_result"])
    assert len(setup.upstream.requests) == 4


@pytest.mark.parametrize("is_streamed", [True, False])
def test_hosted_calls_beside_calls_of_a_messages_client_are_not_run(
    engine_url: str, tmp_path: Path, is_streamed: bool
) -> None:
    """The client cannot send them back, so the model would repeat them and their side effects."""
    calls = [
        Call(name="house__note", arguments="{}"),
        Call(name="web_search", arguments='{"query":"cats"}'),
        Call(name="weather", arguments="{}"),
    ]
    path = tmp_path / "mcp.json"
    with serving_mcp() as root, ScriptedUpstream() as upstream:
        path.write_text(json.dumps({"mcpServers": {"house": {"url": f"{root}/mcp"}}}))
        environment = {
            "RESPONSES_BASE_URL": upstream.url,
            "RESPONSES_API_KEY": "u",
            "RESPONSES_PROVIDER": "vllm",
            "FORWARDER_MCP_SERVERS": str(path),
            "FORWARDER_TOOLS_FOR_ALL": "web_search,mcp:house",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine_url,
        }
        body: Json = {
            "model": "m",
            "max_tokens": 1000,
            "messages": [{"role": "user", "content": "go"}],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "stream": is_streamed,
        }
        upstream.script(
            Answer(calls=calls),
            Answer(calls=calls[:1]),
            make_call_answer("house__events"),
            Answer(text="Done."),
        )
        with host_forwarder(environment) as url, httpx2.Client(timeout=30) as client:
            first = read_message(client.post(f"{url}/v1/messages", json=body))
            (use,) = first["content"]
            assert (use["type"], use["name"]) == ("tool_use", "weather")
            assert first["usage"].get("server_tool_use") is None
            result = {"type": "tool_result", "tool_use_id": use["id"], "content": "sunny"}
            body["messages"] += [
                {"role": "assistant", "content": [use]},
                {"role": "user", "content": [result]},
            ]
            second = read_message(client.post(f"{url}/v1/messages", json=body))
        assert second["content"][0]["text"] == "Done."
        output = upstream.requests[3].body["input"][-1]["output"]
        assert json.dumps(output).count("note called") == 1


def read_message(response: httpx2.Response) -> Json:
    if response.headers["content-type"] == "application/json":
        message: Json = response.json()
        return message
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    return fold_messages(iter([[json.loads(line[6:]) for line in lines]]))


@pytest.mark.parametrize("stored", [True, False])
def test_next_turn_repeats_the_rounds(setup: Setup, mcp_base_url: str, stored: bool) -> None:
    tools = [make_mcp_tool(mcp_base_url)]
    setup.upstream.script(
        make_call_answer("tests__echo", text="hi"), Answer(text="It said hi."), Answer(text="Bye.")
    )
    first = setup.client.responses.create(model="m", input="go", tools=tools, store=stored)
    assert [item.type for item in first.output] == ["mcp_list_tools", "mcp_call", "message"]
    if stored:
        retrieved = setup.client.responses.retrieve(first.id)
        assert [item.type for item in retrieved.output] == [item.type for item in first.output]
        second = setup.client.responses.create(
            model="m", input="bye", tools=tools, previous_response_id=first.id
        )
    else:
        items: list[Any] = [{"role": "user", "content": "go"}, *first.output]
        second = setup.client.responses.create(
            model="m", input=[*items, {"role": "user", "content": "bye"}], tools=tools
        )
    assert second.output_text == "Bye."
    assert [item.type for item in second.output] == ["message"]
    kinds = (
        ["user", "assistant", "tool", "assistant", "user"]
        if setup.is_chat
        else ["message", "function_call", "function_call_output", "message", "message"]
    )
    assert setup.list_inputs(2) == kinds
    assert "previous_response_id" not in setup.upstream.requests[2].body


def test_turn_without_tools_includes_earlier_rounds(setup: Setup) -> None:
    setup.upstream.script(
        make_call_answer("web_search", query="cats"),
        Answer(text=CITED_TEXT),
        Answer(text="A."),
        Answer(text="B."),
    )
    first = setup.client.responses.create(model="m", input="cats?", tools=[SEARCH])
    second = setup.client.responses.create(model="m", input="and?", previous_response_id=first.id)
    third = setup.client.responses.create(model="m", input="so?", previous_response_id=second.id)
    assert (second.output_text, third.output_text) == ("A.", "B.")
    assert setup.list_inputs(2)[1:3] in (
        ["assistant", "tool"], ["function_call", "function_call_output"]
    )  # fmt: skip
    last = setup.upstream.requests[3].body
    if last.get("previous_response_id") is None:
        assert len(setup.list_inputs(3)) == 7
    else:  # the upstream has the second turn, with the whole history
        assert setup.list_inputs(3) == ["message"]


def test_rounds_are_not_stored_by_the_upstream(setup: Setup) -> None:
    setup.upstream.script(make_call_answer("web_search", query="cats"), Answer(text=CITED_TEXT))
    response = setup.client.responses.create(model="m", input="cats?", tools=[SEARCH])
    assert setup.client.responses.retrieve(response.id).store is True  # the forwarder's own store
    assert not any(recorded.body.get("store") for recorded in setup.upstream.requests)


def test_background_response_runs_tools(setup: Setup) -> None:
    setup.upstream.script(make_call_answer("web_search", query="cats"), Answer(text=CITED_TEXT))
    stream = setup.client.responses.create(
        model="m", input="cats?", tools=[SEARCH], background=True, stream=True
    )
    last: Any = list(stream)[-1]
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["web_search_call", "message"]
    assert not any(recorded.body.get("background") for recorded in setup.upstream.requests)


def test_client_and_hosted_calls_of_one_turn_are_both_in_the_next(setup: Setup) -> None:
    calls = [
        Call(name="web_search", arguments='{"query":"cats"}'),
        Call(name="weather", arguments="{}"),
    ]
    setup.upstream.script(Answer(calls=calls), Answer(text="Done."))
    first = setup.client.responses.create(model="m", input="go", tools=[SEARCH, WEATHER])
    assert [item.type for item in first.output] == ["web_search_call", "function_call"]
    call: Any = first.output[1]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = setup.client.responses.create(
        model="m", input=[result], tools=[SEARCH, WEATHER], previous_response_id=first.id
    )
    assert second.output_text == "Done."
    kinds = setup.list_inputs(1)
    assert kinds in (
        ["user", "assistant", "tool", "tool"],
        ["message", *["function_call"] * 2, *["function_call_output"] * 2],
    )


def test_reasoning_is_sent_back_with_the_calls(setup: Setup) -> None:
    setup.upstream.script(
        Answer(reasoning="Hm.", calls=make_call_answer("web_search", query="cats").calls),
        Answer(text=CITED_TEXT),
    )
    response = check_stream(
        stream_events(setup, model="gpt-5.5", input="cats?", tools=[SEARCH], store=False)
    )
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["reasoning", "web_search_call", "message"]
    assert "encrypted_content" not in response["output"][0]
    second = setup.upstream.requests[1].body
    if setup.is_chat:
        assert "Hm." in json.dumps(second["messages"][1])
    else:
        assert [item["type"] for item in second["input"][1:]] == [
            "reasoning", "function_call", "function_call_output"
        ]  # fmt: skip
        assert second["input"][1]["encrypted_content"]


def test_failed_round_ends_the_stream_with_the_usage_so_far(setup: Setup) -> None:
    setup.upstream.script(
        make_call_answer("web_search", query="cats"), faults.refuse_with_status(503)
    )
    response = check_failure(stream_events(setup, input="cats?", tools=[SEARCH]))
    assert response["usage"]["total_tokens"] > 0
    assert [item["type"] for item in response["output"]] == ["web_search_call"]


def check_failure(events: list[Json]) -> Json:
    kinds = [event["type"] for event in events]
    assert kinds[-2:] == ["error", "response.failed"]
    assert sum(kind in ("response.completed", "response.failed") for kind in kinds) == 1
    response: Json = events[-1]["response"]
    return response


def test_call_of_an_unoffered_tool_fails(setup: Setup, mcp_base_url: str) -> None:
    setup.upstream.script(make_call_answer("tests__unheard", a=1), Answer(text="Oh."))
    tool = make_mcp_tool(mcp_base_url, allowed_tools=["echo"])
    response = check_stream(stream_events(setup, input="go", tools=[tool]))
    call = response["output"][1]
    assert (call["type"], call["name"], call["status"]) == ("mcp_call", "unheard", "failed")
    assert "does not offer this tool" in call["error"]["message"]
    assert response["output"][2]["content"][0]["text"] == "Oh."


def test_tools_of_an_input_item_are_run(setup: Setup, mcp_base_url: str) -> None:
    setup.upstream.script(make_call_answer("tests__echo", text="hi"), Answer(text="Done."))
    items: list[Any] = [
        {"role": "user", "content": "go"},
        {"type": "additional_tools", "role": "developer", "tools": [make_mcp_tool(mcp_base_url)]},
    ]
    response = check_stream(stream_events(setup, input=items))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["mcp_list_tools", "mcp_call", "message"]
    assert TOKEN not in json.dumps([recorded.body for recorded in setup.upstream.requests])


def test_invalid_tool_in_an_item_is_rejected_by_name(setup: Setup, mcp_base_url: str) -> None:
    tool = make_mcp_tool(mcp_base_url, server_url="ftp://x")
    items: list[Any] = [{"type": "additional_tools", "role": "developer", "tools": [tool]}]
    with pytest.raises(openai.BadRequestError) as caught:
        setup.client.responses.create(model="m", input=items)
    assert caught.value.param == "input[0].tools[0].server_url"


def test_unsupported_tools_are_dropped_and_named(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Hi."), Answer(text="Hi."))
    tools: Any = [{"type": "code_interpreter", "container": {"type": "auto"}}, WEATHER]
    answer = setup.client.responses.with_raw_response.create(model="m", input="hi", tools=tools)
    assert "tools.code_interpreter" in answer.headers["x-forwarder-dropped"]
    sent_tools = setup.upstream.requests[0].body["tools"]
    assert [tool.get("type") for tool in sent_tools] == ["function"]
    with pytest.raises(openai.BadRequestError) as caught:
        setup.client.responses.create(
            model="m", input="hi", tools=tools, tool_choice={"type": "code_interpreter"}
        )
    assert caught.value.param == "tool_choice"


def test_tools_are_passed_to_an_upstream_that_runs_them(engine_url: str) -> None:
    with ScriptedUpstream(strict=False) as upstream:
        environment = {
            "RESPONSES_BASE_URL": upstream.url,
            "RESPONSES_API_KEY": "u",
            "RESPONSES_PROVIDER": "openai",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine_url,
        }
        tools: Any = [SEARCH, {"type": "image_generation"}]
        with (
            host_forwarder(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            client.responses.create(model="m", input="hi", tools=tools)
        assert upstream.requests[0].body["tools"] == tools


def test_operators_server_runs_beside_tools_of_the_upstream(tmp_path: Path) -> None:
    with serving_mcp() as mcp_base_url, ScriptedUpstream(strict=False) as upstream:
        path = tmp_path / "mcp.json"
        path.write_text(json.dumps({"mcpServers": {"house": {"url": f"{mcp_base_url}/mcp"}}}))
        environment = {
            "RESPONSES_BASE_URL": upstream.url,
            "RESPONSES_API_KEY": "u",
            "RESPONSES_PROVIDER": "openai",
            "FORWARDER_MCP_SERVERS": str(path),
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        own_server_tool: Any = {"type": "mcp", "server_label": "house", "require_approval": "never"}
        upstream_tool: Any = {
            **own_server_tool,
            "server_label": "other",
            "server_url": "https://mcp.example/",
        }
        upstream.script(
            make_call_answer("house__echo", text="hi"), Answer(text="Done."), Answer(text="Bye.")
        )
        with (
            host_forwarder(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            first = client.responses.create(
                model="m", input="go", tools=[own_server_tool, upstream_tool]
            )
            upstream_call: Any = {"type": "mcp_call", "id": "mcp_68a0", "name": "x", "arguments": "{}",
                           "server_label": "other", "output": "o", "error": None}  # fmt: skip
            client.responses.create(
                model="m",
                input=[upstream_call, {"role": "user", "content": "bye"}],
                tools=[own_server_tool, upstream_tool],
                previous_response_id=first.id,
            )
        assert [item.type for item in first.output] == ["mcp_list_tools", "mcp_call", "message"]
        sent_tools = upstream.requests[0].body["tools"]
        assert [tool for tool in sent_tools if tool["type"] == "mcp"] == [upstream_tool]
        last_input = upstream.requests[2].body["input"]
        kinds = [item.get("type") or "message" for item in last_input]
        assert kinds == [
            "message", "function_call", "function_call_output", "message", "mcp_call", "message"
        ]  # fmt: skip
