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
from tests.fake_provider.answers import ModelRequest, Protocol
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
every_pairing = pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """A strict provider of both protocols."""
    with ScriptedUpstream(keys={KEY}) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def post(upstream: ScriptedUpstream) -> Iterator[Post]:
    """Asks the forwarder in front of it; an answer that does not end in time is an error."""
    settings = {f"{name}_{key}": value for name in ("CHAT", "RESPONSES")
             for key, value in (("BASE_URL", upstream.url), ("API_KEY", KEY), ("MAX_RETRIES", "0"))}  # fmt: skip
    with host_forwarder({**settings, "FORWARDER_LOG_LEVEL": "error"}) as root:

        def post_body(client: str, body: bytes) -> ClientAnswer:
            headers = {"content-type": "application/json"}
            answer = http.post(f"{root}/v1{PATHS[client]}", content=body, headers=headers)
            return ClientAnswer(client, answer.status_code, answer.headers, answer.text)

        yield post_body


# -- the law --------------------------------------------------------------------------------------


def assert_discreet(response: ClientAnswer) -> None:
    """No mistake of the forwarder's own, nothing of its inside, no key."""
    for secret in (KEY, "Traceback", 'File "', "internal_error"):
        assert secret not in response.text


def assert_ends_once(response: ClientAnswer) -> None:
    """A success is whole: a JSON object, or a stream with one ending, which is its last event."""
    if not response.is_streamed:
        assert isinstance(response.json, dict)
        return
    frames = [frame for frame in response.text.split("\n\n")[:-1] if not frame.startswith(":")]
    payloads = [frame[frame.index("data: ") + 6 :] for frame in frames]
    if response.client == "chat":
        terminal_flags = [
            data == "[DONE]" or bool(json.loads(data).get("error")) for data in payloads
        ]
    else:
        terminal_flags = [json.loads(data).get("type") in TERMINALS for data in payloads]
    assert terminal_flags == [False] * (len(terminal_flags) - 1) + [True]


def list_mistakes(response: ClientAnswer) -> list[str]:
    """Its mistakes by the SDK's types, except values that only the upstream can check."""
    is_failed = response.client == "chat" and response.is_streamed and not response.done
    upstream_fields = ("service_tier", "annotations")
    mistakes = [] if is_failed else response.mistakes
    return [mistake for mistake in mistakes if not any(name in mistake for name in upstream_fields)]


# -- clients' requests ----------------------------------------------------------------------------


@every_pairing
@broadly
@given(random=randoms, breaks=st.integers(0, 3), answer=st.sampled_from(ANSWERS))
def test_invalid_request_is_answered_or_refused_by_parameter(
    client: str,
    upstream_api: str,
    random: Random,
    breaks: int,
    answer: Answer,
    post: Post,
    upstream: ScriptedUpstream,
) -> None:
    body = generated.generate_request(random, client, f"{upstream_api}/m")
    for _ in range(breaks):
        body = generated.break_document(random, body) if body else body
    upstream.forget()
    upstream.script(answer)

    response = post(client, generated.encode_json(body))

    assert_discreet(response)
    if response.status == 200:
        assert_ends_once(response)
        if client != upstream_api and not CHECKS[client]({**body, "model": "m"}):
            assert list_mistakes(response) == []
    else:
        assert_refused(response, upstream)


def assert_refused(response: ClientAnswer, upstream: ScriptedUpstream) -> None:
    """By the forwarder, which names the parameter or the form of the body; or by the upstream."""
    assert 400 <= response.status < 500
    error = response.error
    refused_upstream = [
        request for request in upstream.requests if request.status == response.status
    ]
    assert error["param"] is not None or error["code"] == "invalid_json" or refused_upstream


# -- upstreams' answers ---------------------------------------------------------------------------


@every_pairing
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@broadly
@given(random=randoms, breaks=st.integers(1, 3), answer=st.sampled_from(ANSWERS))
def test_invalid_answer_is_translated_or_an_upstream_error(
    client: str,
    upstream_api: Protocol,
    stream: bool,
    random: Random,
    breaks: int,
    answer: Answer,
    post: Post,
    upstream: ScriptedUpstream,
) -> None:
    invalid_answer = make_invalid_answer(random, upstream_api, answer, breaks)
    upstream.forget()
    upstream.script(invalid_answer)
    parameters = {"tools": TOOLS[client]} if random.random() < 0.5 else {}
    body = make_body(client, model=f"{upstream_api}/m", stream=stream, **parameters)

    response = post(client, json.dumps(body).encode())

    assert_discreet(response)
    if response.status == 200:
        assert_ends_once(response)
        if client != upstream_api:
            assert list_mistakes(response) == []
    else:
        assert response.status >= 400
        assert response.error["message"]


def make_invalid_answer(random: Random, upstream_api: Protocol, answer: Answer, breaks: int) -> Raw:
    """A broken stream, or a broken whole answer, for any request."""
    document: Any = generated.generate_events(random, upstream_api, answer)
    is_whole = random.random() < 0.2
    if is_whole:
        document = RENDER[upstream_api][1](answer, ModelRequest(upstream_api, {"model": "m"}))
    for _ in range(breaks):
        document = generated.break_document(random, document) if document else document
    if is_whole:
        return Raw(
            body=generated.encode_json(document), headers={"content-type": "application/json"}
        )
    body = generated.frame_events(random, document)
    return Raw(body=body, headers={"content-type": "text/event-stream"})


# -- defects found by fuzzing -------------------------------------------------------------------

USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("client", "upstream_api", "parameters", "param"),
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
def test_invalid_parameters_are_refused_by_name(
    client: str, upstream_api: str, parameters: Json, param: str, post: Post
) -> None:
    body = {**make_body(client, model=f"{upstream_api}/m"), **parameters}

    response = post(client, generated.encode_json(body))

    assert (response.status, response.error["param"]) == (400, param)


def test_text_cut_within_a_character_is_accepted(post: Post, upstream: ScriptedUpstream) -> None:
    upstream.forget()

    response = post(
        "chat", generated.encode_json(make_body("chat", "cut \ud83d", model="responses/m"))
    )

    assert response.status == 200
    assert upstream.requests[0].body["input"][0]["content"][0]["text"] == "cut \ufffd"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("client", "upstream_api", "event"),
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
def test_invalid_events_are_not_internal_errors(
    client: str,
    upstream_api: str,
    event: Json,
    stream: bool,
    post: Post,
    upstream: ScriptedUpstream,
) -> None:
    body = generated.frame_events(Random(0), [event])
    upstream.forget()
    upstream.script(Raw(body=body, headers={"content-type": "text/event-stream"}))

    response = post(
        client, json.dumps(make_body(client, model=f"{upstream_api}/m", stream=stream)).encode()
    )

    assert_discreet(response)
    if response.status == 200:
        assert_ends_once(response)
    else:
        assert response.status == 502


@pytest.mark.parametrize("field", ["created_at", "model", "service_tier"])
@pytest.mark.parametrize("value", [2**64, [], {"a": 1}, 1e308])
def test_invalid_values_of_a_response_do_not_reach_a_chat_client(
    field: str, value: Any, post: Post, upstream: ScriptedUpstream
) -> None:
    upstream_response = RENDER["responses"][1](
        ANSWERS[0], ModelRequest("responses", {"model": "m"})
    )
    upstream.forget()
    upstream.script(Raw(body=json.dumps({**upstream_response, field: value}).encode()))

    response = post("chat", json.dumps(make_body("chat", model="responses/m")).encode())

    assert response.status == 200
    assert response.mistakes == []


def test_too_large_tool_call_index_is_ignored(post: Post, upstream: ScriptedUpstream) -> None:
    upstream.forget()
    arguments = {"command": ["ls"], "timeout_ms": 10**30}
    upstream.script(Answer(calls=[Call("local_shell", arguments)]))
    body = make_body("responses", model="chat/m", tools=[{"type": "local_shell"}])

    response = post("responses", json.dumps(body).encode())

    assert response.json["output"][0]["action"]["timeout_ms"] is None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_too_deeply_nested_arguments_are_an_upstream_error(
    stream: bool, post: Post, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    deep = generated.encode_json({"query": generated.DEEP}).decode()
    upstream.script(Answer(text="Hi.", calls=[Call("tool_search", deep)]))
    body = make_body("responses", model="chat/m", stream=stream, tools=TOOLS["responses"])

    response = post("responses", json.dumps(body).encode())

    assert_discreet(response)
    assert response.ending == "failed"
    assert list_mistakes(response) == [] if stream else response.status == 502
