"""Emulated features that one API lacks, over real HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.fake_provider import Answer, Call, Framing, ScriptedUpstream, Stream, Usage, faults
from tests.helpers.check_cases import check_each
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server
from tests.live.talk import ClientAnswer, Json, make_body, send_request
from tests.live.test_faults import disconnect_after

either = check_each("stream", [False, True], ids=["whole", "streamed"])

TEXT = "One, two, STOP, three."
OVER_RESPONSES = {"model": "responses/m"}
USAGE = {"stream_options": {"include_usage": True}}
TOO_LONG = faults.refuse_with_status(
    400, message="This model's maximum context length is 9 tokens."
)


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """Beside the usual upstreams, ``plain`` is a Chat provider that knows no JSON schemas."""
    return serve(
        make_settings(
            upstream,
            FORWARDER_UPSTREAMS="chat,responses,plain",
            PLAIN_BASE_URL=upstream.url,
            PLAIN_API_KEY="sk-upstream-secret",
            PLAIN_QUIRKS='{"response_format": "json_object"}',
            FORWARDER_KEEPALIVE="0.2",
        )
    )


def chat(forwarder: Server, stream: bool = True, **parameters: Any) -> ClientAnswer:
    """The answer to a chat client over the Responses upstream."""
    stream_parameters = USAGE if stream else {}
    return send_request(
        forwarder,
        "chat",
        make_body("chat", stream=stream, **{**OVER_RESPONSES, **stream_parameters, **parameters}),
    )


def list_choices(response: ClientAnswer) -> list[tuple[Any, str]]:
    """Text and finish reason of every choice."""
    assert response.mistakes == []
    choices = response.whole["choices"]
    return [(choice["message"]["content"], choice["finish_reason"]) for choice in choices]


# -- stop ---------------------------------------------------------------------------------------


@either
@check_each("pieces", [1, 3, len(TEXT)])
def test_answer_ends_before_its_stop_sequence(
    stream: bool, pieces: int, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text=TEXT, pieces=pieces))
    response = chat(forwarder, stream, stop=["STOP", "three"])
    assert list_choices(response) == [("One, two, ", "stop")]
    assert response.whole["usage"]["completion_tokens"] > 0
    assert response.dropped_parameters == []
    assert "stop" not in upstream.requests[0].body


@either
def test_unmatched_stop_does_not_change_the_answer(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text=TEXT, reasoning="STOP?", calls=[Call("f", id="c")], pieces=9))
    tool = {"type": "function", "function": {"name": "f"}}
    response = chat(forwarder, stream, stop=["three.!", "?"], tools=[tool])
    assert response.content.text.endswith(TEXT)
    assert response.content.calls == [("f", "{}")]
    assert response.whole["usage"]["total_tokens"] == Usage().chat()["total_tokens"]


def test_the_upstream_stream_is_closed_at_the_stop(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    text = "word " * 20 + "STOP" + " word" * 400
    upstream.script(faults.slow_down(Answer(text=text, pieces=200), delay=0.02))
    response = chat(forwarder, stop="STOP")
    assert list_choices(response) == [("word " * 20, "stop")]
    assert upstream.requests[0].closed_by_client.wait(2)


def test_usage_is_exact_if_stopped_answers_are_drained(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    forwarder = serve(make_settings(upstream, FORWARDER_STOP_DRAIN="true"))
    upstream.script(Answer(text=TEXT, pieces=9))
    response = chat(forwarder, stop="STOP")
    assert list_choices(response) == [("One, two, ", "stop")]
    assert response.whole["usage"]["completion_tokens"] == Usage().output
    assert not upstream.requests[0].closed_by_client.is_set()


# -- n ------------------------------------------------------------------------------------------


@either
def test_choices_are_requested_concurrently_and_merged(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    texts = [f"Answer {letter * 30}." for letter in "abcd"]
    upstream.script(*(faults.slow_down(Answer(text=text, pieces=8), delay=0.03) for text in texts))
    started = time.monotonic()
    response = chat(forwarder, stream, n=4)
    assert time.monotonic() - started < 3 * 0.03 * 20
    assert sorted(list_choices(response)) == [(text, "stop") for text in texts]
    usage = response.whole["usage"]
    assert usage["prompt_tokens"] == Usage().input
    assert usage["completion_tokens"] == 4 * Usage().output
    assert len(upstream.requests) == 4
    assert all("n" not in request.body for request in upstream.requests)
    if stream:
        indexes = [c["index"] for event in response.events for c in event["choices"]]
        assert indexes != sorted(indexes), "the choices come one after the other"
        assert len({event["id"] for event in response.events}) == 1


def test_every_choice_is_stopped_on_its_own(forwarder: Server, upstream: ScriptedUpstream) -> None:
    upstream.script(*(Answer(text=f"{i} STOP {i}", pieces=9) for i in range(3)))
    assert sorted(list_choices(chat(forwarder, n=3, stop="STOP"))) == [
        (f"{i} ", "stop") for i in range(3)
    ]


@either
def test_a_refusal_of_one_choice_is_the_answer(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    slow = faults.slow_down(Answer(text="word " * 200, pieces=200), delay=0.02)
    upstream.script(slow, faults.refuse_with_status(429, retry_after=7), slow)
    response = chat(forwarder, stream, n=3)
    assert response.status == 429
    assert response.headers["retry-after"] == "7"
    _, *_ = upstream.requests
    assert all(r.closed_by_client.wait(2) for r in upstream.requests if r.status == 200)


def test_a_failure_of_one_choice_ends_all(forwarder: Server, upstream: ScriptedUpstream) -> None:
    slow = faults.slow_down(Answer(text="word " * 200, pieces=200), delay=0.02)
    upstream.script(slow, faults.cut_connection(Answer(text=TEXT, pieces=9), after=8), slow)
    response = chat(forwarder, n=3)
    assert response.ending == "failed"  # by its status, if no choice had begun
    cancelled_requests = [
        request for request in upstream.requests if request.closed_by_client.wait(2)
    ]
    assert len(cancelled_requests) >= 2


@check_each("is_silent", [False, True])
def test_all_upstream_streams_are_closed_when_the_client_disconnects(
    is_silent: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    answer = faults.slow_down(Answer(text="word " * 300, pieces=300), delay=0.02)
    stalled = faults.stall(Answer(text=TEXT), after=5)
    upstream.script(*[stalled if is_silent else answer] * 3)
    body = make_body("chat", stream=True, n=3, **OVER_RESPONSES)
    disconnect_after(forwarder, "chat", body, marker=b"data: ")
    deadline = time.monotonic() + 3
    while len(upstream.requests) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [request.closed_by_client.wait(3) for request in upstream.requests] == [True] * 3


def test_a_number_over_the_cap_is_refused(forwarder: Server, upstream: ScriptedUpstream) -> None:
    response = chat(forwarder, n=9)
    assert response.status == 400
    assert response.error["param"] == "n"
    assert upstream.requests == []


def test_silence_of_all_choices_keeps_the_client_alive(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[faults.stall(Answer(text=TEXT), after=3, seconds=0.7)] * 2)
    response = chat(forwarder, n=2)
    assert ": keep-alive" in response.text
    assert list_choices(response) == [(TEXT, "stop")] * 2


# -- token limits -------------------------------------------------------------------------------


@either
@check_each("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_below_the_floor_is_raised_upstream_and_met_here(
    stream: bool, name: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text=TEXT, pieces=5, finish="length"))
    response = chat(forwarder, stream, **{name: 2})
    assert list_choices(response) == [("One,", "length")]
    assert response.whole["usage"]["completion_tokens"] == 2
    assert upstream.requests[0].body["max_output_tokens"] == 16


# -- features that a Chat provider may lack -------------------------------------------------------


@either
@check_each("upstream_api", ["chat", "responses"])
@check_each("client", ["chat", "responses"])
def test_only_one_call_is_made_where_the_client_forbids_more(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(calls=[Call("f", {"a": 1}, id="c1"), Call("f", {"a": 2}, id="c2")]))
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    tool: Json = {"type": "function", "function": function}
    if client == "responses":
        tool = {"type": "function", "strict": False, **function}
    forbidding = {"tools": [tool], "parallel_tool_calls": False}
    body = make_body(client, model=f"{upstream_api}/m", stream=stream, **forbidding)
    response = send_request(forwarder, client, body)
    assert response.content.calls == [("f", '{"a": 1}')]
    assert [m for m in response.mistakes if not m.startswith(".obfuscation")] == []


@either
def test_legacy_function_call_answer_contains_one_call(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(calls=[Call("f", {"a": 1}, id="c1"), Call("g", {"a": 2}, id="c2")]))
    functions = [{"name": name, "parameters": {"type": "object"}} for name in "fg"]
    response = chat(forwarder, stream, functions=functions)
    (choice,) = response.whole["choices"]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a": 1}'}
    assert choice["finish_reason"] == "function_call"


def test_upstream_with_stored_responses_gets_results_of_all_calls(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    """It would refuse the next turn, in which the result of one is missing."""
    quirks = {"RESPONSES_QUIRKS": '{"keeps_responses": true}'}
    keeping = serve(make_settings(upstream, **quirks))
    upstream.script(*[Answer(calls=[Call("f", id="c1"), Call("f", id="c2")])] * 2)
    tool: Json = {"type": "function", "name": "f", "strict": False, "parameters": None}
    once = {"model": "responses/m", "parallel_tool_calls": False}
    native = send_request(keeping, "responses", make_body("responses", **once, tools=[tool]))
    assert len(native.content.calls) == 2
    tool = {"type": "function", "function": {"name": "f"}}
    assert (
        len(send_request(keeping, "chat", make_body("chat", **once, tools=[tool])).content.calls)
        == 1
    )


LONG = [
    {"role": role, "content": f"{role} {i}"} for i in range(6) for role in ("user", "assistant")
]


@either
def test_too_long_conversation_is_truncated_if_the_client_allows_it(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(TOO_LONG, TOO_LONG, Answer(text="fits"))
    items = [*LONG, {"role": "user", "content": "now"}]
    body = {
        "model": "chat/m",
        "input": items,
        "stream": stream,
        "truncation": "auto",
        "instructions": "Be.",
    }
    response = send_request(forwarder, "responses", body)
    assert response.content.text == "fits"
    assert response.dropped_parameters == []
    sizes = [len(request.body["messages"]) for request in upstream.requests]
    assert sizes == sorted(set(sizes), reverse=True)
    last = upstream.requests[-1].body["messages"]
    assert (last[0]["content"], last[-1]["content"]) == ("Be.", "now")


def test_context_length_refusal_is_returned_without_truncation(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(TOO_LONG)
    body = {"model": "chat/m", "input": [*LONG, {"role": "user", "content": "now"}]}
    response = send_request(forwarder, "responses", body)
    assert response.status == 400
    assert "maximum context length" in response.error["message"]
    assert len(upstream.requests) == 1


SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FIT = json.dumps({"city": "Zürich"}, ensure_ascii=False)


def schema_of(client: str) -> Json:
    json_schema = {"name": "place", "schema": SCHEMA, "strict": True}
    if client == "chat":
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    return {"text": {"format": {"type": "json_schema", **json_schema}}}


@either
@check_each("client", ["chat", "responses"])
def test_a_schema_is_emulated_for_a_provider_without_schemas(
    client: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text='{"town": 1}'), Answer(text=f"```json\n{FIT}\n```", pieces=7))
    response = send_request(
        forwarder, client, make_body(client, model="plain/m", stream=stream, **schema_of(client))
    )
    assert response.content.text == FIT
    assert response.mistakes == []
    first, second = [request.body for request in upstream.requests]
    assert first["response_format"] == {"type": "json_object"}
    assert '"city"' in first["messages"][0]["content"]
    assert second["messages"][-1]["role"] == "user"


def test_schema_is_sent_to_a_provider_that_supports_it(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text=FIT))
    send_request(
        forwarder, "responses", make_body("responses", model="chat/m", **schema_of("responses"))
    )
    assert upstream.requests[0].body["response_format"]["type"] == "json_schema"


def test_client_gets_keep_alives_while_a_schema_is_validated(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Stream(Answer(text=FIT, pieces=2), framing=Framing(delay=0.4)))
    body = make_body("chat", model="plain/m", stream=True, **schema_of("chat"))
    response = send_request(forwarder, "chat", body)
    assert ": keep-alive" in response.text
    assert response.content.text == FIT
