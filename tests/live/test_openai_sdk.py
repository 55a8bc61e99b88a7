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

each_upstream_api = pytest.mark.parametrize("upstream_api", ["chat", "responses"])

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


@each_upstream_api
def test_responses_create_gives_text_and_usage(upstream_api: str, client: OpenAI) -> None:
    response = client.responses.create(model=f"{upstream_api}/m", input="hi")

    assert response.output_text == "Hello from the scripted upstream."
    assert response.usage is not None
    assert response.usage.total_tokens == 30


@each_upstream_api
def test_responses_create_streams(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Zürich 🏔", reasoning="I think.", pieces=4))

    reasoning: Any = {"summary": "auto"}
    events = list(
        client.responses.create(
            model=f"{upstream_api}/m", input="hi", stream=True, reasoning=reasoning
        )
    )

    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta")
    assert (text, thought) == ("Zürich 🏔", "I think.")
    assert [event.sequence_number for event in events] == list(range(len(events)))


@each_upstream_api
def test_responses_stream_runs_a_tool_loop(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", reasoning="Both.", calls=calls), Answer(text="Sunny."))
    history: list[Any] = [{"role": "user", "content": "hi"}]
    parameters: Any = {
        "model": f"{upstream_api}/m",
        "tools": [RESPONSES_TOOL],
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }

    with client.responses.stream(input=history, **parameters) as stream:
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
    with client.responses.stream(input=history, **parameters) as stream:
        second = stream.get_final_response()

    assert [json.loads(event.arguments)["city"] for event in done] == ["Bern", "Basel"]
    assert first.output_text == "I look."
    assert second.output_text == "Sunny."
    if upstream_api == "chat":
        message = upstream.requests[-1].body["messages"][1]
        assert message["reasoning_content"] == "Both."
        assert message["content"] == "I look."
        assert [call["id"] for call in message["tool_calls"]] == ["call_Bern", "call_Basel"]


@each_upstream_api
def test_responses_parse_gives_an_object(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text='{"city": "Bern", "people": 134000}')] * 2)

    parsed = client.responses.parse(model=f"{upstream_api}/m", input="hi", text_format=Place)
    with client.responses.stream(
        model=f"{upstream_api}/m", input="hi", text_format=Place
    ) as stream:
        streamed = stream.get_final_response()

    assert parsed.output_parsed == streamed.output_parsed == Place(city="Bern", people=134000)


@each_upstream_api
def test_responses_report_refusal_and_length(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(refusal="I cannot."), Answer(text="cut in the", finish="length"))

    refusal = client.responses.create(model=f"{upstream_api}/m", input="hi")
    cut_response = client.responses.create(
        model=f"{upstream_api}/m", input="hi", max_output_tokens=20
    )

    [message] = refusal.output
    assert message.type == "message"
    assert message.content[0].type == "refusal"
    assert message.content[0].refusal == "I cannot."
    assert (cut_response.status, cut_response.output_text) == ("incomplete", "cut in the")
    assert cut_response.incomplete_details is not None
    assert cut_response.incomplete_details.reason == "max_output_tokens"


@each_upstream_api
def test_responses_raise_the_upstream_error(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        faults.refuse_with_status(429, retry_after=3), faults.error_event(Answer(text="abc"))
    )

    with pytest.raises(openai.RateLimitError) as rate_limit_error:
        client.responses.create(model=f"{upstream_api}/m", input="hi", stream=True)
    with pytest.raises(openai.APIError) as stream_error:
        list(client.responses.create(model=f"{upstream_api}/m", input="hi", stream=True))

    assert rate_limit_error.value.response.headers["retry-after"] == "3"
    assert rate_limit_error.value.code == "rate_limit_exceeded"
    assert "broke down" in str(stream_error.value)


# -- Chat -----------------------------------------------------------------------------------------


def chat(upstream_api: str, **parameters: Any) -> Any:
    """The arguments of a chat call."""
    return {
        "model": f"{upstream_api}/m",
        "messages": [{"role": "user", "content": "hi"}],
        **parameters,
    }


@each_upstream_api
def test_chat_create_gives_text_and_usage(upstream_api: str, client: OpenAI) -> None:
    completion = client.chat.completions.create(**chat(upstream_api))

    assert completion.choices[0].message.content == "Hello from the scripted upstream."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 30


@each_upstream_api
def test_chat_create_streams(upstream_api: str, client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.script(Answer(text="Zürich 🏔", pieces=4))
    options = {"include_usage": True}

    chunks = list(
        client.chat.completions.create(**chat(upstream_api, stream=True, stream_options=options))
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Zürich 🏔"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


@each_upstream_api
def test_chat_stream_runs_a_tool_loop(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", calls=calls), Answer(text="Sunny."))
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    parameters: Any = {"model": f"{upstream_api}/m", "tools": [CHAT_TOOL]}

    with client.chat.completions.stream(messages=messages, **parameters) as stream:
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
    second = client.chat.completions.create(messages=messages, **parameters)

    assert [event.parsed_arguments for event in done] == [{"city": "Bern"}, {"city": "Basel"}]
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "I look."
    assert second.choices[0].message.content == "Sunny."


@each_upstream_api
def test_chat_parse_gives_an_object(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text='{"city": "Bern", "people": 134000}')] * 2)

    parsed = client.chat.completions.parse(**chat(upstream_api, response_format=Place))
    with client.chat.completions.stream(**chat(upstream_api, response_format=Place)) as stream:
        streamed = stream.get_final_completion()

    for completion in (parsed, streamed):
        assert completion.choices[0].message.parsed == Place(city="Bern", people=134000)


@each_upstream_api
def test_chat_reports_refusal_and_length(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        Answer(refusal="I cannot."),
        Answer(text="cut in the", finish="length"),
        Answer(text="cut in the", finish="length"),
    )

    [refusal] = client.chat.completions.create(**chat(upstream_api)).choices
    [cut_choice] = client.chat.completions.create(**chat(upstream_api)).choices
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**chat(upstream_api, response_format=Place))

    assert (refusal.message.refusal, refusal.message.content) == ("I cannot.", None)
    assert (cut_choice.finish_reason, cut_choice.message.content) == ("length", "cut in the")


@each_upstream_api
def test_chat_raises_the_upstream_error(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        faults.refuse_with_status(429, retry_after=3), faults.error_event(Answer(text="abc"))
    )

    with pytest.raises(openai.RateLimitError) as rate_limit_error:
        client.chat.completions.create(**chat(upstream_api, stream=True))
    with pytest.raises(openai.APIError) as stream_error:
        list(client.chat.completions.create(**chat(upstream_api, stream=True)))

    assert rate_limit_error.value.response.headers["retry-after"] == "3"
    assert "broke down" in str(stream_error.value)


@each_upstream_api
def test_chat_shows_reasoning_as_the_request_wants(
    upstream_api: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Hello.", reasoning="I think.", pieces=2))
    headers = {"X-Forwarder-Reasoning": "reasoning_content"}

    with client.chat.completions.stream(**chat(upstream_api), extra_headers=headers) as stream:
        message: Any = stream.get_final_completion().choices[0].message

    assert (message.reasoning_content, message.content) == ("I think.", "Hello.")
    assert message.metadata["reasoning"] == "I think."


@pytest.mark.parametrize("stream", [False, True])
def test_chat_shows_reasoning_in_blocks_by_default_and_otherwise_below_a_base_path(
    stream: bool, client: OpenAI, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Hi.", reasoning="Hm.", pieces=2)] * 2)
    client_with_base_path = client.with_options(base_url=f"{forwarder.url}/think/v1")

    texts = [_text_of(each, stream) for each in (client, client_with_base_path)]

    assert texts == ["[thinking]Hm.[/thinking]\n\nHi.", "<think>Hm.</think>\n\nHi."]
    assert client_with_base_path.models.list().data


def _text_of(client: OpenAI, stream: bool) -> str:
    answer: Any = client.chat.completions.create(**chat("responses"), stream=stream)
    if not stream:
        return str(answer.choices[0].message.content)
    return "".join(c.delta.content or "" for chunk in answer for c in chunk.choices)


def test_models_can_be_listed_and_retrieved(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert "chat/gpt-5.5" in names
    assert client.models.retrieve("chat/gpt-5.5").owned_by == "scripted"
