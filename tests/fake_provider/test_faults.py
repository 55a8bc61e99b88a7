"""Faults over the wire: a liberal reader reads the same answer despite harmless faults, and no answer
after fatal ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.fake_provider import Answer, Call, ScriptedUpstream, faults
from tests.fake_provider.answers import Json, Protocol
from tests.fake_provider.faults import Scripted
from tests.helpers.check_cases import check_each

TEXT = Answer(text="Grüße aus Zürich 🏔")
CALLS = Answer(calls=[Call("one", {"city": "Zürich 🏔"}), Call("two", {"b": 2})])

BODIES: dict[Protocol, tuple[str, Json]] = {
    "chat": (
        "/chat/completions",
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "responses": ("/responses", {"model": "m", "input": "hi", "stream": True}),
}

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


PostRequest = Callable[..., httpx2.Response]
ReadAnswer = Callable[[Protocol, Scripted], list[Json]]


@pytest.fixture
def post_request(upstream: ScriptedUpstream, http: httpx2.Client) -> PostRequest:
    """Request a stream once, for the scripted answer."""

    def post_request(protocol: Protocol, *scripted: Scripted) -> httpx2.Response:
        upstream.script(*scripted)
        path, body = BODIES[protocol]
        return http.post(upstream.url + path, json=body)

    return post_request


@pytest.fixture
def read_answer(post_request: PostRequest) -> ReadAnswer:
    """Read one answer."""
    return lambda protocol, scripted: read_events(lambda: post_request(protocol, scripted))


def read_events(post_request: Callable[[], httpx2.Response]) -> list[Json]:
    """Return the events of an answer, read liberally; none if it is not a stream."""
    try:
        response = post_request()
    except httpx2.TransportError:
        return []
    lines = response.content.decode().replace("\r\n", "\n").split("\n")
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def extract_answer(protocol: Protocol, events: list[Json]) -> list[Any] | None:
    """Return text and calls of a complete answer with content; None otherwise."""
    if any("error" in event for event in events):
        return None
    parts = _extract_chat_answer(events) if protocol == "chat" else _extract_response(events)
    return parts if parts and any(parts) else None


def _extract_chat_answer(chunks: list[Json]) -> list[Any] | None:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    if not any(choice["finish_reason"] for choice in choices):
        return None
    text = ""
    calls: list[Json] = []
    for delta in (choice.get("delta") or choice.get("message") or {} for choice in choices):
        text += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            _add_call_delta(calls, call)
    return [text, *((call["name"], json.loads(call["arguments"])) for call in calls)]


def _add_call_delta(calls: list[Json], delta: Json) -> None:
    call_ids = {call["id"] for call in calls}
    if delta.get("id") and delta["id"] not in call_ids:
        calls.append({"id": delta["id"], "name": delta["function"]["name"], "arguments": ""})
    index = next((i for i, c in enumerate(calls) if c["id"] == delta.get("id")), len(calls) - 1)
    arguments = delta["function"]["arguments"]
    calls[index]["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _extract_response(events: list[Json]) -> list[Any] | None:
    if not events or events[-1]["type"] != "response.completed":
        return None
    output = events[-1]["response"]["output"]
    text = "".join(part["text"] for item in output for part in item.get("content", ()))
    calls = [item for item in output if item["type"] == "function_call"]
    return [text, *((call["name"], json.loads(call["arguments"])) for call in calls)]


CASES = [
    pytest.param(
        protocol, answer, name, id=f"{protocol}-{'calls' if answer.calls else 'text'}-{name}"
    )
    for protocol in BODIES
    for answer in (TEXT, CALLS)
    for name in faults.list_harmless(answer, protocol)
]


@check_each(("protocol", "answer", "name"), CASES)
def test_harmless_faults_keep_the_answer(
    protocol: Protocol, answer: Answer, name: str, read_answer: ReadAnswer
) -> None:
    events = read_answer(protocol, faults.list_harmless(answer, protocol)[name])

    expected = [answer.text or "", *((call.name, call.arguments) for call in answer.calls)]
    assert extract_answer(protocol, events) == expected


@check_each(
    ("protocol", "name"),
    [(protocol, name) for protocol in BODIES for name in faults.list_fatal(TEXT, protocol)],
)
def test_fatal_faults_have_no_answer(
    protocol: Protocol, name: str, read_answer: ReadAnswer
) -> None:
    events = read_answer(protocol, faults.list_fatal(TEXT, protocol)[name])

    assert extract_answer(protocol, events) is None


def test_the_tables_are_not_empty() -> None:
    assert len(faults.list_harmless(TEXT, "chat")) > 15
    assert len(faults.list_harmless(CALLS, "chat")) > len(faults.list_harmless(TEXT, "chat"))
    assert len(faults.list_harmless(TEXT, "responses")) > 5
    assert len(faults.list_fatal(TEXT, "responses")) > len(faults.list_fatal(TEXT, "chat")) > 10


def test_an_error_event_has_the_shape_of_its_protocol(read_answer: ReadAnswer) -> None:
    """Chat has an object with ``error``; Responses has a nested or flat error, then ``response.failed``."""
    chat = read_answer("chat", faults.error_event(TEXT))
    nested = read_answer("responses", faults.error_event(TEXT))
    flat = read_answer("responses", faults.error_event(TEXT, shape="flat"))

    assert chat[-1].keys() == {"error"}
    assert [event["type"] for event in nested[-2:]] == ["error", "response.failed"]
    assert nested[-2]["error"]["code"] == flat[-2]["code"] == "server_error"
    assert nested[-1]["response"]["status"] == "failed"
    assert [event["sequence_number"] for event in nested] == list(range(len(nested)))


def test_a_stream_can_end_without_its_terminal_event(read_answer: ReadAnswer) -> None:
    chat = read_answer("chat", faults.without_terminal(TEXT))
    responses = read_answer("responses", faults.without_terminal(TEXT))

    assert not any(c["finish_reason"] for chunk in chat for c in chunk["choices"])
    assert not any(event["type"] in TERMINAL for event in responses)


def test_usage_can_come_after_done(post_request: PostRequest) -> None:
    events = post_request("chat", faults.usage_after_done(TEXT)).text

    assert events.index("[DONE]") < events.index('"prompt_tokens"')


@pytest.mark.parametrize("protocol", BODIES)
def test_whole_object_can_replace_a_stream(protocol: Protocol, post_request: PostRequest) -> None:
    response = post_request(protocol, faults.WholeInstead(TEXT))

    assert response.headers["content-type"] == "application/json"
    assert "Zürich" in response.text
    assert response.json()["object"] in ("chat.completion", "response")


def test_slow_stream_is_delayed(post_request: PostRequest) -> None:
    response = post_request("responses", faults.slow_down(TEXT, 0.02))

    assert response.elapsed.total_seconds() > 0.12


@pytest.mark.parametrize("code", faults.STATUSES)
def test_a_status_has_an_error_in_openai_s_shape(code: int, post_request: PostRequest) -> None:
    refusal = post_request("chat", faults.refuse_with_status(code, retry_after=3))
    page = post_request("chat", faults.answer_with_html(code))

    assert refusal.status_code == page.status_code == code
    assert refusal.json()["error"].keys() == {"message", "type", "param", "code"}
    assert refusal.headers["retry-after"] == "3"
    assert page.headers["content-type"] == "text/html"
