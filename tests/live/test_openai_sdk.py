"""openai-python, strictly validating, over both kinds of upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.fake_provider import Answer, Call, ScriptedUpstream, faults
from tests.live.server import Server

over_either = pytest.mark.parametrize("over", ["chat", "responses"])

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: Any = {"name": "get_weather", "parameters": SCHEMA, "strict": True}
CHAT_TOOL: Any = {"type": "function", "function": FUNCTION}
RESPONSES_TOOL: Any = {"type": "function", **FUNCTION}


class Place(BaseModel):
    """The content of the structured answers."""

    city: str
    people: int


@pytest.fixture(scope="module")
def client(forwarder: Server) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=forwarder.v1,
        api_key="none",
        max_retries=0,
        timeout=10,
        _strict_response_validation=True,
    ) as client:
        yield client


# -- Responses ------------------------------------------------------------------------------------


@over_either
def test_responses_create_gives_text_and_usage(over: str, client: OpenAI) -> None:
    response = client.responses.create(model=f"{over}/m", input="hi")

    assert response.output_text == "Hello from the scripted upstream."
    assert response.usage is not None
    assert response.usage.total_tokens == 30


@over_either
def test_responses_create_streams(over: str, client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.script(Answer(text="Zürich 🏔", reasoning="I think.", pieces=4))

    wanted: Any = {"summary": "auto"}
    events = list(
        client.responses.create(model=f"{over}/m", input="hi", stream=True, reasoning=wanted)
    )

    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta")
    assert (text, thought) == ("Zürich 🏔", "I think.")
    assert [event.sequence_number for event in events] == list(range(len(events)))


@over_either
def test_responses_stream_runs_a_tool_loop(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", reasoning="Both.", calls=calls), Answer(text="Sunny."))
    history: list[Any] = [{"role": "user", "content": "hi"}]
    ask: Any = {
        "model": f"{over}/m",
        "tools": [RESPONSES_TOOL],
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }

    with client.responses.stream(input=history, **ask) as stream:
        done = [e for e in stream if e.type == "response.function_call_arguments.done"]
        first = stream.get_final_response()
    history += [item.to_dict(exclude_unset=True) for item in first.output]
    history += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
        for item in first.output
        if item.type == "function_call"
    ]
    for item in history:  # added by the SDK's helper
        item.pop("parsed_arguments", None)
        for part in item["content"] if isinstance(item.get("content"), list) else ():
            part.pop("parsed", None)
    with client.responses.stream(input=history, **ask) as stream:
        second = stream.get_final_response()

    assert [json.loads(event.arguments)["city"] for event in done] == ["Bern", "Basel"]
    assert first.output_text == "I look."
    assert second.output_text == "Sunny."
    if over == "chat":
        message = upstream.requests[-1].body["messages"][1]
        assert message["reasoning_content"] == "Both."
        assert message["content"] == "I look."
        assert [call["id"] for call in message["tool_calls"]] == ["call_Bern", "call_Basel"]


@over_either
def test_responses_parse_gives_an_object(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text='{"city": "Bern", "people": 134000}')] * 2)

    parsed = client.responses.parse(model=f"{over}/m", input="hi", text_format=Place)
    with client.responses.stream(model=f"{over}/m", input="hi", text_format=Place) as stream:
        streamed = stream.get_final_response()

    assert parsed.output_parsed == streamed.output_parsed == Place(city="Bern", people=134000)


@over_either
def test_responses_tell_refusal_and_length(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(refusal="I cannot."), Answer(text="cut in the", finish="length"))

    refused = client.responses.create(model=f"{over}/m", input="hi")
    cut = client.responses.create(model=f"{over}/m", input="hi", max_output_tokens=20)

    [message] = refused.output
    assert message.type == "message"
    assert message.content[0].type == "refusal"
    assert message.content[0].refusal == "I cannot."
    assert (cut.status, cut.output_text) == ("incomplete", "cut in the")
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


@over_either
def test_responses_raise_the_upstream_error(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        faults.refuse_with_status(429, retry_after=3), faults.error_event(Answer(text="abc"))
    )

    with pytest.raises(openai.RateLimitError) as limited:
        client.responses.create(model=f"{over}/m", input="hi", stream=True)
    with pytest.raises(openai.APIError) as broken:
        list(client.responses.create(model=f"{over}/m", input="hi", stream=True))

    assert limited.value.response.headers["retry-after"] == "3"
    assert limited.value.code == "rate_limit_exceeded"
    assert "broke down" in str(broken.value)


# -- Chat -----------------------------------------------------------------------------------------


def chat(over: str, **more: Any) -> Any:
    """The arguments of a chat call."""
    return {"model": f"{over}/m", "messages": [{"role": "user", "content": "hi"}], **more}


@over_either
def test_chat_create_gives_text_and_usage(over: str, client: OpenAI) -> None:
    completion = client.chat.completions.create(**chat(over))

    assert completion.choices[0].message.content == "Hello from the scripted upstream."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 30


@over_either
def test_chat_create_streams(over: str, client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.script(Answer(text="Zürich 🏔", pieces=4))
    options = {"include_usage": True}

    chunks = list(client.chat.completions.create(**chat(over, stream=True, stream_options=options)))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Zürich 🏔"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


@over_either
def test_chat_stream_runs_a_tool_loop(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", calls=calls), Answer(text="Sunny."))
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    ask: Any = {"model": f"{over}/m", "tools": [CHAT_TOOL]}

    with client.chat.completions.stream(messages=messages, **ask) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        first = stream.get_final_completion().choices[0]
    messages.append(
        {
            "role": "assistant",
            "content": first.message.content,
            "tool_calls": [
                {"id": c.id, "type": "function",
                 "function": {"name": c.function.name, "arguments": c.function.arguments}}
                for c in first.message.tool_calls or ()
            ],
        }
    )  # fmt: skip
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        for call in first.message.tool_calls or ()
    ]
    second = client.chat.completions.create(messages=messages, **ask)

    assert [event.parsed_arguments for event in done] == [{"city": "Bern"}, {"city": "Basel"}]
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "I look."
    assert second.choices[0].message.content == "Sunny."


@over_either
def test_chat_parse_gives_an_object(over: str, client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.script(*[Answer(text='{"city": "Bern", "people": 134000}')] * 2)

    parsed = client.chat.completions.parse(**chat(over, response_format=Place))
    with client.chat.completions.stream(**chat(over, response_format=Place)) as stream:
        streamed = stream.get_final_completion()

    for completion in (parsed, streamed):
        assert completion.choices[0].message.parsed == Place(city="Bern", people=134000)


@over_either
def test_chat_tells_refusal_and_length(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        Answer(refusal="I cannot."),
        Answer(text="cut in the", finish="length"),
        Answer(text="cut in the", finish="length"),
    )

    [refused] = client.chat.completions.create(**chat(over)).choices
    [cut] = client.chat.completions.create(**chat(over)).choices
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**chat(over, response_format=Place))

    assert (refused.message.refusal, refused.message.content) == ("I cannot.", None)
    assert (cut.finish_reason, cut.message.content) == ("length", "cut in the")


@over_either
def test_chat_raises_the_upstream_error(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        faults.refuse_with_status(429, retry_after=3), faults.error_event(Answer(text="abc"))
    )

    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(**chat(over, stream=True))
    with pytest.raises(openai.APIError) as broken:
        list(client.chat.completions.create(**chat(over, stream=True)))

    assert limited.value.response.headers["retry-after"] == "3"
    assert "broke down" in str(broken.value)


@over_either
def test_chat_shows_reasoning_as_the_request_wants(
    over: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Hello.", reasoning="I think.", pieces=2))
    wish = {"X-Forwarder-Reasoning": "reasoning_content"}

    with client.chat.completions.stream(**chat(over), extra_headers=wish) as stream:
        message: Any = stream.get_final_completion().choices[0].message

    assert (message.reasoning_content, message.content) == ("I think.", "Hello.")
    assert message.metadata["reasoning"] == "I think."


@pytest.mark.parametrize("stream", [False, True])
def test_chat_shows_reasoning_in_blocks_by_default_and_otherwise_below_a_base_path(
    stream: bool, client: OpenAI, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Hi.", reasoning="Hm.", pieces=2)] * 2)
    based = client.with_options(base_url=f"{forwarder.url}/think/v1")

    texts = [_text_of(each, stream) for each in (client, based)]

    assert texts == ["[thinking]Hm.[/thinking]\n\nHi.", "<think>Hm.</think>\n\nHi."]
    assert based.models.list().data


def _text_of(client: OpenAI, stream: bool) -> str:
    got: Any = client.chat.completions.create(**chat("responses"), stream=stream)
    if not stream:
        return str(got.choices[0].message.content)
    return "".join(c.delta.content or "" for chunk in got for c in chunk.choices)


def test_models_can_be_listed_and_retrieved(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert "chat/gpt-5.5" in names
    assert client.models.retrieve("chat/gpt-5.5").owned_by == "scripted"
