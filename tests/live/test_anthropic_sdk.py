"""anthropic-sdk-python, strictly validating, over both kinds of upstream."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_provider import Answer, Call, ScriptedUpstream, faults
from tests.live.clients import needs_python_package
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server

pytestmark = needs_python_package("anthropic")
each_upstream_api = pytest.mark.parametrize("upstream_api", ["chat", "responses"])

TOOL: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
THINKING: Any = {"type": "enabled", "budget_tokens": 2000}
HI: Any = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    return serve(make_settings(upstream, RESPONSES_PROVIDER="openai", FORWARDER_API_KEYS="sk-mine"))


@pytest.fixture(scope="module")
def client(forwarder: Server) -> Iterator[Any]:
    import anthropic

    with anthropic.Anthropic(
        base_url=forwarder.url,
        api_key="sk-mine",
        max_retries=0,
        timeout=10,
        _strict_response_validation=True,
    ) as client:
        yield client


@each_upstream_api
def test_create_gives_text_and_usage(upstream_api: str, client: Any) -> None:
    message = client.messages.create(model=f"{upstream_api}/gpt-5", max_tokens=100, messages=[HI])

    assert [block.text for block in message.content] == ["Hello from the scripted upstream."]
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (16, 5)
    assert message.stop_reason == "end_turn"
    assert message._request_id.startswith("req_")


@each_upstream_api
def test_stream_runs_tools_with_thinking(
    upstream_api: str, client: Any, upstream: ScriptedUpstream
) -> None:
    """Two rounds of the streaming helper; the provider gets its reasoning back."""
    calls = [Call("get_weather", {"city": city}) for city in ("Oslo", "Bergen")]
    upstream.script(Answer(reasoning="I look.", text="Wait.", calls=calls))
    upstream.script(Answer(reasoning="Done.", text="Rain."))
    messages: list[Any] = [HI]
    parameters: dict[str, Any] = {
        "model": f"{upstream_api}/gpt-5",
        "max_tokens": 4000,
        "thinking": THINKING,
        "tools": [TOOL],
    }

    with client.messages.stream(messages=messages, **parameters) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_message()
    assert {"thinking", "text", "input_json", "signature"} <= set(kinds)
    tool_uses = [block for block in first.content if block.type == "tool_use"]
    assert [block.input for block in tool_uses] == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert first.stop_reason == "tool_use"
    results = [{"type": "tool_result", "tool_use_id": b.id, "content": "rain"} for b in tool_uses]
    messages += [first.to_param(), {"role": "user", "content": results}]
    with client.messages.stream(messages=messages, **parameters) as stream:
        last = stream.get_final_message()

    assert [block.type for block in last.content] == ["thinking", "text"]
    assert last.content[0].thinking == "Done."
    body = upstream.requests[-1].body
    if upstream_api == "chat":
        turn = next(m for m in body["messages"] if m["role"] == "assistant")
        assert turn["reasoning_content"] == "I look."
    else:
        assert [item["type"] for item in body["input"]][1:4] == [
            "reasoning",
            "message",
            "function_call",
        ]
        assert body["input"][1]["encrypted_content"]


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_runner_calls_tools_until_the_answer(
    streamed: bool, client: Any, upstream: ScriptedUpstream
) -> None:
    """The runner begins with a `thread`, is refused, and sends the whole conversation instead."""
    import anthropic

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        if city == "Bergen":
            raise anthropic.lib.tools.ToolError("unknown city")
        return f"sunny in {city}"

    calls = [Call("get_weather", {"city": city}) for city in ("Oslo", "Bergen")]
    upstream.script(Answer(reasoning="I look.", calls=calls), Answer(text="Sunny."))

    runner = client.beta.messages.tool_runner(
        model="chat/gpt-5",
        max_tokens=4000,
        thinking=THINKING,
        system="Be brief.",
        tools=[get_weather],
        messages=[HI],
        stream=streamed,
    )
    answers = [each.get_final_message() if streamed else each for each in runner]

    assert [answer.stop_reason for answer in answers] == ["tool_use", "end_turn"]
    assert [block.type for block in answers[0].content] == ["thinking", "tool_use", "tool_use"]
    assert answers[1].content[-1].text == "Sunny."
    first, last = (request.body["messages"] for request in upstream.requests)
    assert last[: len(first)] == first
    assert last[len(first)]["reasoning_content"] == "I look."
    assert [message["content"] for message in last[len(first) + 1 :]] == [
        "sunny in Oslo",
        "[The tool call failed.]\nunknown city",
    ]


@each_upstream_api
def test_images_and_documents_reach_the_upstream(
    upstream_api: str, client: Any, upstream: ScriptedUpstream
) -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    image = {"type": "base64", "media_type": "image/png", "data": data}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    content: Any = [
        {"type": "image", "source": image},
        {"type": "document", "source": pdf, "title": "Report"},
    ]

    client.messages.create(
        model=f"{upstream_api}/gpt-5",
        max_tokens=100,
        messages=[{"role": "user", "content": content}],
    )

    body = upstream.requests[-1].body
    parts = (body.get("messages") or body["input"])[0]["content"]
    assert [part["type"] for part in parts] == {
        "chat": ["image_url", "text", "file"],
        "responses": ["input_image", "input_text", "input_file"],
    }[upstream_api]


@each_upstream_api
def test_structured_answers_are_parsed(
    upstream_api: str, client: Any, upstream: ScriptedUpstream
) -> None:
    from pydantic import BaseModel

    class Place(BaseModel):
        city: str

    upstream.script(Answer(text='{"city": "Oslo"}'))
    message = client.messages.parse(
        model=f"{upstream_api}/gpt-5", max_tokens=100, messages=[HI], output_format=Place
    )

    assert message.parsed_output == Place(city="Oslo")


@each_upstream_api
def test_upstream_errors_raise_the_sdk_s_exceptions(
    upstream_api: str, client: Any, upstream: ScriptedUpstream
) -> None:
    import anthropic

    upstream.script(faults.refuse_with_status(429))
    with pytest.raises(anthropic.RateLimitError) as excinfo:
        client.messages.create(model=f"{upstream_api}/gpt-5", max_tokens=100, messages=[HI])
    assert excinfo.value.type == "rate_limit_error"
    assert excinfo.value.request_id


def test_batches_and_unknown_files_are_not_found(client: Any) -> None:
    import anthropic

    def ask_about_file() -> None:
        client.beta.files.retrieve_metadata("file_011CNha8iCJcU1wXNR6q4V8w")

    for call in (client.messages.batches.list, ask_about_file):
        with pytest.raises(anthropic.NotFoundError) as excinfo:
            call()
        assert excinfo.value.type == "not_found_error"
        assert excinfo.value.request_id


def test_unknown_keys_are_refused(forwarder: Server) -> None:
    import anthropic

    with (
        anthropic.Anthropic(base_url=forwarder.url, api_key="no", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model="gpt-5", max_tokens=100, messages=[HI])


def test_bearer_tokens_are_accepted(forwarder: Server) -> None:
    import anthropic

    with anthropic.Anthropic(base_url=forwarder.url, auth_token="sk-mine", api_key=None) as client:
        assert client.messages.count_tokens(model="gpt-5", messages=[HI]).input_tokens > 0


def test_models_are_listed_and_found(client: Any) -> None:
    names = [model.id for model in client.models.list(limit=1)]

    assert names
    assert len(set(names)) == len(names)
    assert client.models.retrieve(names[0]).id == names[0]
