"""Every request and every upstream answer leads to an answer or a refusal, and nothing else.

The whole program over real HTTP, between requests made up from the SDK's types and then broken,
and an upstream with answers that are broken in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_provider import Answer, Call, Raw, ScriptedUpstream, check_chat, check_responses
from tests.fake_provider.answers import Ask, Protocol
from tests.fake_provider.wire import RENDER
from tests.helpers import generated
from tests.helpers.hosted import host_forwarder
from tests.live.talk import PAIRINGS, PATHS, TERMINALS, ClientAnswer, http, make_body

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

Json = dict[str, Any]
Post = Callable[[str, bytes], ClientAnswer]

KEY = "sk-upstream-secret"
CHECKS: dict[str, Callable[[Json], Any]] = {"chat": check_chat, "responses": check_responses}
ANSWERS = (
    Answer(text="Hello there."),
    Answer(text="So.", reasoning="Because."),
    Answer(text="<think>Because.</think>So."),
    Answer(text="Now.", calls=[Call("f", {"a": 1}), Call("g")]),
    Answer(calls=[Call("local_shell", {"command": ["ls"], "timeout_ms": 5})]),
    Answer(calls=[Call("note", {"input": "free"}), Call("tool_search", {"query": "x"})]),
    Answer(refusal="No."),
    Answer(text="This is cut", finish="length"),
)
TOOLS: dict[str, list[Json]] = {
    "chat": [{"type": "function", "function": {"name": "f"}}],
    "responses": [
        {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False},
        {"type": "custom", "name": "note"},
        {"type": "local_shell"},
        {"type": "tool_search", "execution": "client"},
    ],
}

randoms = st.randoms(use_true_random=False)
broadly = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
every_pairing = pytest.mark.parametrize(("client", "over"), PAIRINGS)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """A strict provider of both protocols."""
    with ScriptedUpstream(keys={KEY}) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def post(upstream: ScriptedUpstream) -> Iterator[Post]:
    """Asks the forwarder in front of it; an answer that does not end in time is an error."""
    named = {f"{name}_{key}": value for name in ("CHAT", "RESPONSES")
             for key, value in (("BASE_URL", upstream.url), ("API_KEY", KEY), ("MAX_RETRIES", "0"))}  # fmt: skip
    with host_forwarder({**named, "FORWARDER_LOG_LEVEL": "error"}) as root:

        def post_body(client: str, body: bytes) -> ClientAnswer:
            headers = {"content-type": "application/json"}
            got = http.post(f"{root}/v1{PATHS[client]}", content=body, headers=headers)
            return ClientAnswer(client, got.status_code, got.headers, got.text)

        yield post_body


# -- the law --------------------------------------------------------------------------------------


def assert_discreet(answered: ClientAnswer) -> None:
    """No mistake of the forwarder's own, nothing of its inside, no key."""
    for secret in (KEY, "Traceback", 'File "', "internal_error"):
        assert secret not in answered.text


def assert_ends_once(answered: ClientAnswer) -> None:
    """A success is whole: a JSON object, or a stream with one ending, which is its last event."""
    if not answered.is_streamed:
        assert isinstance(answered.json, dict)
        return
    frames = [frame for frame in answered.text.split("\n\n")[:-1] if not frame.startswith(":")]
    said = [frame[frame.index("data: ") + 6 :] for frame in frames]
    if answered.client == "chat":
        ends = [data == "[DONE]" or bool(json.loads(data).get("error")) for data in said]
    else:
        ends = [json.loads(data).get("type") in TERMINALS for data in said]
    assert ends == [False] * (len(ends) - 1) + [True]


def list_mistakes(answered: ClientAnswer) -> list[str]:
    """Its mistakes by the SDK's types, except values that only the upstream can check."""
    failed = answered.client == "chat" and answered.is_streamed and not answered.done
    theirs = ("service_tier", "annotations")
    found = [] if failed else answered.mistakes
    return [said for said in found if not any(name in said for name in theirs)]


# -- clients' requests ----------------------------------------------------------------------------


@every_pairing
@broadly
@given(random=randoms, breaks=st.integers(0, 3), answer=st.sampled_from(ANSWERS))
def test_invalid_request_is_answered_or_refused_by_parameter(
    client: str,
    over: str,
    random: Random,
    breaks: int,
    answer: Answer,
    post: Post,
    upstream: ScriptedUpstream,
) -> None:
    body = generated.generate_request(random, client, f"{over}/m")
    for _ in range(breaks):
        body = generated.break_document(random, body) if body else body
    upstream.forget()
    upstream.script(answer)

    answered = post(client, generated.encode_json(body))

    assert_discreet(answered)
    if answered.status == 200:
        assert_ends_once(answered)
        if client != over and not CHECKS[client]({**body, "model": "m"}):
            assert list_mistakes(answered) == []
    else:
        assert_refused(answered, upstream)


def assert_refused(answered: ClientAnswer, upstream: ScriptedUpstream) -> None:
    """By the forwarder, which names the parameter or the form of the body; or by the upstream."""
    assert 400 <= answered.status < 500
    error = answered.error
    refused_there = [asked for asked in upstream.requests if asked.status == answered.status]
    assert error["param"] is not None or error["code"] == "invalid_json" or refused_there


# -- upstreams' answers ---------------------------------------------------------------------------


@every_pairing
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@broadly
@given(random=randoms, breaks=st.integers(1, 3), answer=st.sampled_from(ANSWERS))
def test_invalid_answer_is_translated_or_an_upstream_error(
    client: str,
    over: Protocol,
    stream: bool,
    random: Random,
    breaks: int,
    answer: Answer,
    post: Post,
    upstream: ScriptedUpstream,
) -> None:
    said = as_said(random, over, answer, breaks)
    upstream.forget()
    upstream.script(said)
    more = {"tools": TOOLS[client]} if random.random() < 0.5 else {}
    body = make_body(client, model=f"{over}/m", stream=stream, **more)

    answered = post(client, json.dumps(body).encode())

    assert_discreet(answered)
    if answered.status == 200:
        assert_ends_once(answered)
        if client != over:
            assert list_mistakes(answered) == []
    else:
        assert answered.status >= 400
        assert answered.error["message"]


def as_said(random: Random, over: Protocol, answer: Answer, breaks: int) -> Raw:
    """A broken stream, or a broken whole answer, for any request."""
    told: Any = generated.generate_events(random, over, answer)
    whole = random.random() < 0.2
    if whole:
        told = RENDER[over][1](answer, Ask(over, {"model": "m"}))
    for _ in range(breaks):
        told = generated.break_document(random, told) if told else told
    if whole:
        return Raw(body=generated.encode_json(told), headers={"content-type": "application/json"})
    body = generated.frame_events(random, told)
    return Raw(body=body, headers={"content-type": "text/event-stream"})


# -- defects found by fuzzing -------------------------------------------------------------------

USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("client", "over", "more", "param"),
    [
        # echoed without having been sent, so it was never serialized before
        ("responses", "chat", {"tools": [{"type": "web_search", "x": generated.DEEP}]}, "tools"),
        ("responses", "chat", {"metadata": {"a": generated.DEEP}}, "metadata"),
        ("chat", "chat", {"messages": generated.DEEP}, "messages"),
        ("responses", "chat", {"input": []}, "input"),
        ("chat", "responses", {"temperature": float("nan")}, "temperature"),
        (
            "chat",
            "chat",
            {"response_format": {"type": "json_schema", "json_schema": {"name": 1e308}}},
            "response_format.json_schema.name",
        ),
    ],
)
def test_refusals_that_were_missing(
    client: str, over: str, more: Json, param: str, post: Post
) -> None:
    body = {**make_body(client, model=f"{over}/m"), **more}

    answered = post(client, generated.encode_json(body))

    assert (answered.status, answered.error["param"]) == (400, param)


def test_text_cut_within_a_character_is_accepted(post: Post, upstream: ScriptedUpstream) -> None:
    upstream.forget()

    answered = post(
        "chat", generated.encode_json(make_body("chat", "cut \ud83d", model="responses/m"))
    )

    assert answered.status == 200
    assert upstream.requests[0].body["input"][0]["content"][0]["text"] == "cut \ufffd"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("client", "over", "told"),
    [
        ("chat", "chat", {"choices": [{"delta": "Hi", "finish_reason": "stop"}]}),
        ("chat", "chat", {"choices": [{"delta": {"tool_calls": True}, "finish_reason": "stop"}]}),
        ("chat", "chat", {"choices": [{"delta": {"tool_calls": [None]}}]}),
        ("chat", "chat", {"choices": [{"delta": {"content": [None]}, "finish_reason": "stop"}]}),
        ("responses", "chat", {"choices": [{"delta": {"refusal": [None]}}]}),
        ("chat", "responses", {"type": "response.output_text.delta", "delta": ["Hi"]}),
        ("chat", "responses", {"type": "response.refusal.delta", "delta": ["Hi"]}),
        ("chat", "responses", {"type": [], "response": "none"}),
        ("responses", "responses", {"type": [], "response": "none"}),
        ("responses", "responses", {"type": "response.completed", "response": generated.DEEP}),
    ],
)
def test_events_that_were_taken_for_mistakes_of_the_forwarder(
    client: str, over: str, told: Json, stream: bool, post: Post, upstream: ScriptedUpstream
) -> None:
    body = generated.frame_events(Random(0), [told])
    upstream.forget()
    upstream.script(Raw(body=body, headers={"content-type": "text/event-stream"}))

    answered = post(
        client, json.dumps(make_body(client, model=f"{over}/m", stream=stream)).encode()
    )

    assert_discreet(answered)
    if answered.status == 200:
        assert_ends_once(answered)
    else:
        assert answered.status == 502


@pytest.mark.parametrize("field", ["created_at", "model", "service_tier"])
@pytest.mark.parametrize("value", [2**64, [], {"a": 1}, 1e308])
def test_strange_values_of_a_response_do_not_reach_a_chat_client(
    field: str, value: Any, post: Post, upstream: ScriptedUpstream
) -> None:
    whole = RENDER["responses"][1](ANSWERS[0], Ask("responses", {"model": "m"}))
    upstream.forget()
    upstream.script(Raw(body=json.dumps({**whole, field: value}).encode()))

    answered = post("chat", json.dumps(make_body("chat", model="responses/m")).encode())

    assert answered.status == 200
    assert answered.mistakes == []


def test_too_large_tool_call_index_is_ignored(post: Post, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    arguments = {"command": ["ls"], "timeout_ms": 10**30}
    upstream.script(Answer(calls=[Call("local_shell", arguments)]))
    body = make_body("responses", model="chat/m", tools=[{"type": "local_shell"}])

    answered = post("responses", json.dumps(body).encode())

    assert answered.json["output"][0]["action"]["timeout_ms"] is None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_too_deeply_nested_arguments_are_an_upstream_error(
    stream: bool, post: Post, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    deep = generated.encode_json({"query": generated.DEEP}).decode()
    upstream.script(Answer(text="Hi.", calls=[Call("tool_search", deep)]))
    body = make_body("responses", model="chat/m", stream=stream, tools=TOOLS["responses"])

    answered = post("responses", json.dumps(body).encode())

    assert_discreet(answered)
    assert answered.ending == "failed"
    assert list_mistakes(answered) == [] if stream else answered.status == 502
