"""What goes wrong, over real HTTP: upstreams that break, requests that are malformed, clients that
leave.  Every answer ends exactly once, and none hangs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fake_provider import Answer, Call, Framing, Raw, ScriptedUpstream, Stall, Stream, faults
from tests.fake_provider.answers import Protocol
from tests.fake_provider.faults import STATUSES, Scripted
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, find_unused_port, run_server
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, Json, ask, http, make_body

every_pairing = check_each(("client", "over"), PAIRINGS)
every_client = check_each("client", PATHS)
either = check_each("stream", [False, True], ids=["whole", "streamed"])

TEXT = "Grüezi 🏔 日本語, “quoted” and long enough to be cut."
ANSWER = Answer(
    text=TEXT,
    calls=[
        Call("get", {"city": "Zürich"}, id="call_a"),
        Call("get", {"city": "東京"}, id="call_b"),
    ],
    pieces=4,
)
FOLDING = json.dumps({"models": {"folded": {"always_stream": True}}})
"""Of this model whole answers are put together from streams."""

PATIENCE = 1.0
"""Seconds that the forwarder waits for an upstream in these tests."""


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder of little patience; ``gone`` is an upstream that is not there."""
    limits = {
        f"{name}_{limit}_TIMEOUT": str(PATIENCE)
        for name in ("CHAT", "RESPONSES")
        for limit in ("FIRST_BYTE", "WHOLE", "IDLE")
    }
    return serve(
        make_settings(
            upstream,
            FORWARDER_UPSTREAMS="chat,responses,gone",
            GONE_BASE_URL=f"http://127.0.0.1:{find_unused_port()}/v1",
            GONE_API="both",
            FORWARDER_KEEPALIVE="0.2",
            FORWARDER_MAX_BODY="64k",
            CHAT_QUIRKS=FOLDING,
            RESPONSES_QUIRKS=FOLDING,
            **limits,
        )
    )


def asking_for_calls(client: str, over: str, stream: bool, model: str = "m") -> Json:
    """A request with a tool and, where a chat client can say so, the wish for usage."""
    function = {"name": "get", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": function}
    if client == "responses":
        tool = {"type": "function", "strict": False, **function}
    more: Json = {"stream_options": {"include_usage": True}} if client == "chat" and stream else {}
    return make_body(client, model=f"{over}/{model}", stream=stream, tools=[tool], **more)


def get_total_tokens(answered: ClientAnswer) -> int | None:
    """The total of the usage."""
    whole = answered.whole
    total: int | None = (whole.get("usage") or {}).get("total_tokens")
    return total


# -- vendors --------------------------------------------------------------------------------------


def list_vendor_cases() -> list[Any]:
    """Everything that a vendor may do, for each pairing in which a stream is read."""
    return [
        pytest.param(client, over, stream, name, id=f"{client}-{over}-{stream}-{name}")
        for client, over in PAIRINGS
        for stream in (False, True)
        if stream or client != over
        for name in faults.list_harmless(ANSWER, get_protocol(over))
    ]


def get_protocol(over: str) -> Protocol:
    return "chat" if over == "chat" else "responses"


# The SDK's own accumulator, by which a passed-through stream would be judged, refuses these.
BEYOND_THE_SDK = {
    "filters_first",
    "message_for_delta",
    "no_index",
    "object_arguments",
    "one_index",
    "role_everywhere",
    "usage_in_every_chunk",
    "finish_empty",
    "content_null",
    "names_blank_later",
    "names_repeated",
}


@check_each(("client", "over", "stream", "name"), list_vendor_cases(), parts=3)
def test_vendor_variations_do_not_change_the_answer(
    client: str, over: str, stream: bool, name: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.list_harmless(ANSWER, get_protocol(over))[name])

    model = "m" if stream else "folded"
    answered = ask(forwarder, client, asking_for_calls(client, over, stream, model))

    assert upstream.requests[-1].body["stream"]
    assert answered.status == 200, answered.text
    if client == over and name in BEYOND_THE_SDK:
        assert answered.done
        assert not any(event.get("error") for event in answered.events)
        return
    assert answered.ending == "completed"
    assert answered.content.text == TEXT
    calls = [(called, json.loads(given)) for called, given in answered.content.calls]
    assert calls == [("get", {"city": "Zürich"}), ("get", {"city": "東京"})]
    assert get_total_tokens(answered) == 30
    if client != over:
        assert answered.mistakes == []


@every_pairing
def test_a_whole_answer_is_accepted_instead_of_a_stream(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.WholeInstead(ANSWER))

    answered = ask(forwarder, client, asking_for_calls(client, over, True))

    assert answered.ending == "completed"
    assert answered.content.text == TEXT
    assert len(answered.content.calls) == 2


@every_pairing
@check_each("form", ["whole", "folded", "streamed"])
def test_a_finished_empty_answer_is_an_answer(
    client: str, over: str, form: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.make_empty_answer())

    answered = ask(forwarder, client, asking_for_calls(client, over, form == "streamed", form))

    assert answered.ending == "completed"
    assert (answered.content.text, answered.content.calls) == ("", [])
    assert answered.mistakes == []
    assert get_total_tokens(answered) == 30


def test_null_error_is_no_error(forwarder: Server, upstream: ScriptedUpstream) -> None:
    def nulls(chunks: list[Json], _: Any) -> list[Json]:
        return [{**chunk, "error": None} for chunk in chunks]

    for client in PATHS:
        upstream.script(Stream(Answer(text=TEXT), [nulls]))
        answered = ask(forwarder, client, make_body(client, model="chat/m", stream=True))
        assert answered.content.text == TEXT
        assert answered.ending == "completed"


# -- breakage -------------------------------------------------------------------------------------

BEFORE_ANY_EVENT = {
    "hang_up": 502,
    "error_in_200": 500,
    "html_200": 502,
    "html_502": 502,
    **{f"status_{code}": code for code in STATUSES},
    "status_401": 403,  # the forwarder's key, and so the forwarder's fault
}
"""Fault -> the status that the client gets, even when it asked for a stream."""


def list_fault_cases() -> list[Any]:
    """Every fault, for each pairing in which it can happen."""
    return [
        pytest.param(client, over, form, name, id=f"{client}-{over}-{form}-{name}")
        for client, over in PAIRINGS
        for form in ("whole", "folded", "streamed")
        for name in faults.list_fatal(ANSWER, get_protocol(over))
        if form != "whole" or name != "without_terminal"
    ]


@check_each(("client", "over", "form", "name"), list_fault_cases(), parts=4)
def test_a_broken_answer_fails_once(
    client: str, over: str, form: str, name: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    stream = form == "streamed"
    fault = faults.list_fatal(ANSWER, get_protocol(over))[name]
    upstream.script(fault)

    answered = ask(forwarder, client, asking_for_calls(client, over, stream, form))

    assert upstream.requests[-1].body["stream"] is (form != "whole")
    assert answered.ending == "failed"
    if (client, over, form, name) == ("responses", "responses", "folded", "failed"):
        assert answered.json["error"]["message"]  # as the upstream has it
        return
    assert answered.is_streamed or answered.error["message"]
    assert stream or answered.status >= 400
    if name in BEFORE_ANY_EVENT:
        assert answered.status == BEFORE_ANY_EVENT[name]


@every_pairing
@either
@check_each("code", STATUSES)
def test_a_refusal_reaches_the_client_unchanged(
    client: str, over: str, stream: bool, code: int, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    headers = {"x-ratelimit-remaining-tokens": "7", "x-should-retry": "true", "x-secret": "no"}
    upstream.script(
        faults.refuse_with_status(code, retry_after=9, param="messages", headers=headers)
    )

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=stream))

    if code == 401:  # the forwarder's key, and so the forwarder's fault
        assert answered.status == 403
        assert answered.error["code"] == "upstream_authentication"
        assert answered.headers["x-should-retry"] == "false"
        return
    message, kind, name = STATUSES[code]
    param = "input" if (client, over) == ("responses", "chat") else "messages"  # its own word
    assert answered.status == code
    assert answered.error == {"message": message, "type": kind, "code": name, "param": param}
    assert answered.headers["retry-after"] == "9"
    assert answered.headers["x-ratelimit-remaining-tokens"] == "7"
    assert answered.headers["x-should-retry"] == "true"
    assert answered.headers["x-upstream-request-id"].startswith("req_scripted")
    assert "x-secret" not in answered.headers


@every_pairing
def test_an_error_in_the_stream_keeps_its_message(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    broken = faults.error_event(Answer(text=TEXT), after=5)
    upstream.script(replace(broken, framing=replace(broken.framing, delay=0.02)))

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))

    assert answered.status == 200
    assert answered.ending == "failed"
    last = answered.events[-1]
    error = last["error"] if client == "chat" else last["response"]["error"]
    assert error["code"] == "server_error"
    assert "broke down" in error["message"]


@check_each("over", PATHS)
def test_a_cut_stream_keeps_its_text(
    over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for client in PATHS:
        upstream.script(faults.cut_connection(Answer(text=TEXT, pieces=8), after=8, reset=False))
        answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))
        assert answered.ending == "failed"
        assert TEXT[:5] in said_so_far(answered)


def said_so_far(answered: ClientAnswer) -> str:
    if answered.client == "responses":
        deltas = [e for e in answered.events if e["type"] == "response.output_text.delta"]
        return "".join(event["delta"] for event in deltas)
    choices = [choice for event in answered.events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@every_client
@either
def test_an_upstream_that_is_not_there_is_a_502(
    client: str, stream: bool, forwarder: Server
) -> None:
    answered = ask(forwarder, client, make_body(client, model="gone/m", stream=stream))

    assert answered.status == 502
    assert answered.error["code"] == "upstream_unreachable"


# -- silence --------------------------------------------------------------------------------------


def all_at_once(forwarder: Server, stream: bool) -> list[ClientAnswer]:
    """The same request in every pairing, side by side."""
    with ThreadPoolExecutor(len(PAIRINGS)) as pool:
        return list(
            pool.map(
                lambda pair: ask(
                    forwarder, pair[0], make_body(pair[0], model=f"{pair[1]}/m", stream=stream)
                ),
                PAIRINGS,
            )
        )


@either
def test_an_upstream_that_never_answers_is_a_504(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(*[faults.never_answer()] * len(PAIRINGS))
    started = time.monotonic()

    for answered in all_at_once(forwarder, stream):
        assert answered.status == 504
        assert answered.error["code"] == "upstream_timeout"

    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2
    assert all(request.closed_by_client.wait(2) for request in upstream.requests)


@check_each("after", [0, 4])
def test_an_upstream_that_falls_silent_has_failed(
    after: int, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(*[faults.stall(Answer(text=TEXT), after)] * len(PAIRINGS))
    started = time.monotonic()

    for answered in all_at_once(forwarder, stream=True):
        assert answered.ending == "failed"
        assert ": keep-alive" in answered.text
        assert "stopped sending" in answered.text

    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2
    assert all(request.closed_by_client.wait(2) for request in upstream.requests)


def test_a_whole_answer_that_stalls_is_a_504(forwarder: Server, upstream: ScriptedUpstream) -> None:
    for client, over in [("chat", "responses"), ("responses", "chat")]:
        upstream.script(faults.stall(Answer(text=TEXT), 4))
        answered = ask(forwarder, client, make_body(client, model=f"{over}/m"))
        assert answered.status == 504
        assert answered.error["code"] == "upstream_timeout"


@every_pairing
def test_a_slow_upstream_is_waited_for(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Longer than any single silence may last."""
    upstream.forget()
    upstream.script(faults.slow_down(Answer(text=TEXT, pieces=6), delay=0.15))

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))

    assert answered.ending == "completed"
    assert answered.content.text == TEXT


# -- clients that leave, connections that stay ----------------------------------------------------


@contextmanager
def sending(
    server: Server, client: str, body: Json, name: str = "req_x"
) -> Iterator[socket.socket]:
    """The connection on which this is asked; it is closed in the end."""
    url = urlsplit(server.url)
    data = json.dumps(body).encode()
    head = f"POST /v1{PATHS[client]} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {name}\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=5) as sock:
        sock.sendall(head.encode())
        time.sleep(0.05)  # as most clients do, which send a body on its own
        sock.sendall(data)
        yield sock


def leave(server: Server, client: str, body: Json, after: bytes, name: str = "req_x") -> None:
    """Ask, read until ``after`` has come, and close."""
    with sending(server, client, body, name) as sock:
        seen = b""
        while after not in seen:
            piece = sock.recv(4096)
            assert piece, seen
            seen += piece
        time.sleep(0.1)  # all other events are written by now, and only a wait can be left


def wait_for(holds: Callable[[], Any]) -> bool:
    """Does it hold within a moment?"""
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(holds())


@every_pairing
@check_each(
    "answer",
    [
        faults.slow_down(Answer(text="word " * 300, pieces=300), delay=0.02),
        faults.stall(Answer(text=TEXT), after=5),
    ],
    ids=["talking", "silent"],
)
def test_the_upstream_stream_is_closed_when_the_client_disconnects(
    client: str, over: str, answer: Scripted, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(answer)

    leave(forwarder, client, make_body(client, model=f"{over}/m", stream=True), after=b"data: ")

    [request] = upstream.requests
    assert request.closed_by_client.wait(2)


@every_pairing
def test_the_upstream_request_is_cancelled_before_its_answer(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.never_answer())

    with sending(forwarder, client, make_body(client, model=f"{over}/m")):
        assert wait_for(lambda: upstream.requests)

    [request] = upstream.requests
    assert request.closed_by_client.wait(PATIENCE / 2)


def test_file_download_is_cancelled_when_the_client_disconnects(serve: Serve) -> None:
    left = threading.Event()

    def wait_for_close(peer: Peer) -> None:
        if peer.request() and not peer.request():
            left.set()

    with run_server(wait_for_close) as files:
        forwarder = serve({"RESPONSES_BASE_URL": f"{files.url}/v1", "RESPONSES_API_KEY": KEY})
        url = urlsplit(forwarder.url)
        with socket.create_connection((str(url.hostname), url.port or 80), timeout=5) as sock:
            sock.sendall(b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wait_for(lambda: files.requests)

        assert left.wait(2)


def test_file_upload_is_cancelled_when_the_client_disconnects(serve: Serve) -> None:
    left = threading.Event()

    def wait_for_close(peer: Peer) -> None:
        if peer.request() and not peer.request():
            left.set()

    with run_server(wait_for_close) as files:
        forwarder = serve(
            {
                "CHAT_BASE_URL": f"{files.url}/v1",
                "CHAT_API_KEY": KEY,
                "CHAT_QUIRKS": '{"file": "upload"}',
            }
        )
        data = "data:application/pdf;base64,JVBERi0xLjQK"
        part = {"type": "file", "file": {"filename": "a.pdf", "file_data": data}}
        body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
        with sending(forwarder, "chat", body):
            assert wait_for(lambda: files.requests)
            assert b"POST /v1/files" in bytes(files.requests[0])

        assert left.wait(2)


@every_pairing
def test_a_client_that_leaves_is_no_failure_of_the_upstream(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.stall(Answer(text="word " * 40, pieces=40), after=9))
    before = http.get(f"{forwarder.url}/metrics").text
    name = f"req_{client}_over_{over}_left"

    body = make_body(client, model=f"{over}/m", stream=True)
    leave(forwarder, client, body, after=b"data: ", name=name)

    assert wait_for(lambda: name in forwarder.log)
    [line] = [json.loads(line) for line in forwarder.log.splitlines() if name in line]
    assert (line["status"], line["error"], line["left"]) == (499, "client_left", True)
    assert list_failures(http.get(f"{forwarder.url}/metrics").text) == list_failures(before)


def list_failures(metrics: str) -> list[str]:
    return [line for line in metrics.splitlines() if "upstream_errors_total{" in line]


@check_each("value", ["caf\xe9", "\xff"])
def test_a_non_ascii_header_of_an_upstream_is_harmless(
    value: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(
        faults.refuse_with_status(429, headers={"x-request-id": value, "retry-after": "7"})
    )

    answered = ask(forwarder, "chat", make_body("chat", model="chat/m"))

    assert (answered.status, answered.headers["retry-after"]) == (429, "7")
    assert "x-upstream-request-id" not in answered.headers


@every_pairing
def test_connections_to_the_upstream_are_used_again(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for stream in (True, False, True, True, False, True):
        answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=stream))
        assert answered.ending == "completed"

    assert len({request.connection_id for request in upstream.requests}) == 1


@every_pairing
def test_a_connection_is_not_used_again_after_a_cut(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    body = make_body(client, model=f"{over}/m", stream=True)
    upstream.script(faults.cut_connection(Answer(text=TEXT)))
    ask(forwarder, client, body)

    assert ask(forwarder, client, body).ending == "completed"


@check_each("over", PATHS)
def test_a_stream_that_does_not_end_after_its_end_is_let_go(
    over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The client does not wait for an upstream that keeps the connection open."""
    upstream.forget()
    lingering = Stream(Answer(text=TEXT), ending=lambda frames: [*frames, Stall()])
    for client in PATHS:
        upstream.script(lingering)
        started = time.monotonic()
        answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))
        assert answered.content.text == TEXT
        assert answered.ending == "completed"
        assert time.monotonic() - started < PATIENCE


# -- malformed requests ---------------------------------------------------------------------------

MESSAGE = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

MALFORMED_CHAT: list[tuple[Json, str]] = [
    ({"model": 5}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [MESSAGE, {"role": "assistant", "tool_calls": "x"}]},
        "messages[1].tool_calls",
    ),
    (
        {"messages": [MESSAGE, {"role": "assistant", "tool_calls": [{**CALL, "type": "x"}]}]},
        "messages[1].tool_calls[0].type",
    ),
    ({"messages": [MESSAGE, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
    (
        {"messages": [MESSAGE, {"role": "tool", "content": "x", "tool_call_id": "nobody"}]},
        "messages[1].tool_call_id",
    ),
    ({"messages": [MESSAGE, {"role": "assistant", "tool_calls": [CALL]}, MESSAGE]}, "messages[2]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": 1}, "stream_options"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"tools": {}}, "tools"),
    ({"tools": [1]}, "tools[0]"),
    ({"tools": [{"type": "magic"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tool_choice": 1}, "tool_choice"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"reasoning_effort": 3}, "reasoning_effort"),
    ({"metadata": []}, "metadata"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
]

OUTPUT = {"type": "function_call_output", "call_id": "nobody", "output": "x"}
FUNCTION_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}

MALFORMED_RESPONSES: list[tuple[Json, str]] = [
    ({"model": 5}, "model"),
    ({"input": None}, "input"),
    ({"input": 1}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{"content": "hi"}]}, "input[0].type"),
    ({"input": [{"type": "spell"}]}, "input[0].type"),
    ({"input": [{"type": 1}]}, "input[0].type"),
    ({"input": [{"type": "message", "content": "hi"}]}, "input[0].role"),
    ({"input": [{"role": "robot", "content": "hi"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": ["hi"]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
    ),
    ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
    ({"input": [MESSAGE, OUTPUT]}, "input"),
    ({"input": [MESSAGE, FUNCTION_CALL]}, "input"),
    ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
    ({"instructions": ["x"]}, "instructions"),
    ({"stream": 1}, "stream"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_output_tokens": "many"}, "max_output_tokens"),
    ({"tools": {}}, "tools"),
    ({"tools": [1]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": 1}]}, "tools[0].tools"),
    ({"tool_choice": 1}, "tool_choice"),
    ({"text": "json"}, "text"),
    ({"text": {"format": "json"}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"reasoning": "high"}, "reasoning"),
    ({"reasoning": {"effort": 3}}, "reasoning.effort"),
    ({"include": "all"}, "include"),
    ({"metadata": []}, "metadata"),
]

MALFORMED = [
    pytest.param(client, more, param, id=f"{client}-{i}-{param}")
    for client, table in (("chat", MALFORMED_CHAT), ("responses", MALFORMED_RESPONSES))
    for i, (more, param) in enumerate(table)
]


@check_each(("client", "more", "param"), MALFORMED)
def test_a_malformed_request_is_refused_by_its_parameter(
    client: str, more: Json, param: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    answered = ask(forwarder, client, {**make_body(client), **more})

    assert answered.status == 400, answered.text
    assert answered.error["type"] == "invalid_request_error"
    assert answered.error["param"] == param
    assert upstream.requests == []


@every_client
@check_each("body", [b"", b"{", b"\xff\xfe", b"nonsense", b'{"model": NaN}', b"[]", b'"x"'])
def test_a_body_that_is_no_object_is_refused(client: str, body: bytes, forwarder: Server) -> None:
    answered = ask(forwarder, client, body)

    assert answered.status == 400
    assert answered.error["code"] == "invalid_json"


@every_client
def test_a_body_over_the_limit_is_refused(client: str, forwarder: Server) -> None:
    answered = ask(forwarder, client, make_body(client, "x" * 70_000))

    assert answered.status == 413
    assert answered.error["code"] == "request_too_large"


@every_client
def test_malformed_bodies_are_client_errors(client: str, forwarder: Server) -> None:
    """Malformed bodies are reported as the client's errors."""
    wild: list[Any] = [None, True, -1, 1e300, "", "x", [], {}, [[]], [None], [{}], {"type": None}]
    for name in NAMES[client]:
        for value in wild:
            body = {**make_body(client), name: value}
            answered = ask(forwarder, client, body)
            assert answered.status < 500, (name, value, answered.text)


NAMES = {
    "chat": ("model", "messages", "tools", "tool_choice", "functions", "function_call", "stop",
             "response_format", "stream_options", "web_search_options", "metadata", "modalities",
             "n", "logprobs", "audio"),
    "responses": ("model", "input", "instructions", "tools", "tool_choice", "text", "reasoning",
                  "include", "metadata", "prompt_cache_options", "previous_response_id",
                  "conversation", "truncation", "stream_options", "service_tier"),
}  # fmt: skip
"""Client -> parameters that have a shape of their own."""


@check_each("client", PATHS)
def test_a_passing_request_is_judged_by_its_upstream(
    client: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    body = {**make_body(client, model=f"{client}/m"), "temperature": "hot"}

    answered = ask(forwarder, client, body)

    assert answered.status == 400
    assert answered.error["param"] == "temperature"
    assert len(upstream.requests) == 1


def test_keys_in_an_upstream_s_error_are_blotted_out(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    for client, over in PAIRINGS:
        for status in (400, 429, 500):
            upstream.script(faults.refuse_with_status(status, message=f"Your key {KEY} is tired."))
            answered = ask(forwarder, client, make_body(client, model=f"{over}/m"))
            assert answered.error["message"] == "Your key *** is tired."
        upstream.script(faults.error_in_200(f"Your key {KEY} is tired."))
        assert KEY not in ask(forwarder, client, make_body(client, model=f"{over}/m")).text
        upstream.script(quoting_events(over))
        body = make_body(client, model=f"{over}/m", stream=True)
        assert KEY not in ask(forwarder, client, body).text
    assert KEY not in forwarder.log


def quoting_events(over: str) -> Raw:
    """A stream that breaks, and quotes the key in doing so."""
    error = {"message": f"Your key {KEY} is tired.", "type": "x", "code": "server_error"}
    kind = {"type": "error"} if over == "responses" else {}
    return Raw(events=[{**kind, "error": error}], framing=Framing(done=False))
