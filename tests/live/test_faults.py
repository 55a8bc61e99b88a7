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
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, Json, http, make_body, send_request

every_pairing = check_each(("client", "upstream_api"), PAIRINGS)
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
    """A forwarder with short time limits; the upstream ``gone`` is unreachable."""
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


def make_tool_request(client: str, upstream_api: str, stream: bool, model: str = "m") -> Json:
    """A request with a tool and, where a chat client can say so, the wish for usage."""
    function = {"name": "get", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": function}
    if client == "responses":
        tool = {"type": "function", "strict": False, **function}
    options: Json = (
        {"stream_options": {"include_usage": True}} if client == "chat" and stream else {}
    )
    return make_body(
        client, model=f"{upstream_api}/{model}", stream=stream, tools=[tool], **options
    )


def get_total_tokens(response: ClientAnswer) -> int | None:
    """The total of the usage."""
    answer = response.whole
    total: int | None = (answer.get("usage") or {}).get("total_tokens")
    return total


# -- vendors --------------------------------------------------------------------------------------


def list_vendor_cases() -> list[Any]:
    """Everything that a vendor may do, for each pairing in which a stream is read."""
    return [
        pytest.param(
            client, upstream_api, stream, name, id=f"{client}-{upstream_api}-{stream}-{name}"
        )
        for client, upstream_api in PAIRINGS
        for stream in (False, True)
        if stream or client != upstream_api
        for name in faults.list_harmless(ANSWER, get_protocol(upstream_api))
    ]


def get_protocol(upstream_api: str) -> Protocol:
    return "chat" if upstream_api == "chat" else "responses"


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


@check_each(("client", "upstream_api", "stream", "name"), list_vendor_cases(), parts=3)
def test_vendor_variations_do_not_change_the_answer(
    client: str,
    upstream_api: str,
    stream: bool,
    name: str,
    forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    upstream.forget()
    upstream.script(faults.list_harmless(ANSWER, get_protocol(upstream_api))[name])

    model = "m" if stream else "folded"
    response = send_request(
        forwarder, client, make_tool_request(client, upstream_api, stream, model)
    )

    assert upstream.requests[-1].body["stream"]
    assert response.status == 200, response.text
    if client == upstream_api and name in BEYOND_THE_SDK:
        assert response.done
        assert not any(event.get("error") for event in response.events)
        return
    assert response.ending == "completed"
    assert response.content.text == TEXT
    calls = [(function, json.loads(arguments)) for function, arguments in response.content.calls]
    assert calls == [("get", {"city": "Zürich"}), ("get", {"city": "東京"})]
    assert get_total_tokens(response) == 30
    if client != upstream_api:
        assert response.mistakes == []


@every_pairing
def test_a_whole_answer_is_accepted_instead_of_a_stream(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.WholeInstead(ANSWER))

    response = send_request(forwarder, client, make_tool_request(client, upstream_api, True))

    assert response.ending == "completed"
    assert response.content.text == TEXT
    assert len(response.content.calls) == 2


@every_pairing
@check_each("form", ["whole", "folded", "streamed"])
def test_a_finished_empty_answer_is_an_answer(
    client: str, upstream_api: str, form: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.make_empty_answer())

    response = send_request(
        forwarder, client, make_tool_request(client, upstream_api, form == "streamed", form)
    )

    assert response.ending == "completed"
    assert (response.content.text, response.content.calls) == ("", [])
    assert response.mistakes == []
    assert get_total_tokens(response) == 30


def test_null_error_is_no_error(forwarder: Server, upstream: ScriptedUpstream) -> None:
    def add_null_error(chunks: list[Json], _: Any) -> list[Json]:
        return [{**chunk, "error": None} for chunk in chunks]

    for client in PATHS:
        upstream.script(Stream(Answer(text=TEXT), [add_null_error]))
        response = send_request(forwarder, client, make_body(client, model="chat/m", stream=True))
        assert response.content.text == TEXT
        assert response.ending == "completed"


# -- breakage -------------------------------------------------------------------------------------

BEFORE_ANY_EVENT = {
    "hang_up": 502,
    "error_in_200": 500,
    "html_200": 502,
    "html_502": 502,
    **{f"status_{code}": code for code in STATUSES},
    "status_401": 403,  # the forwarder's key, and so the forwarder's fault
}
"""Fault -> the status that the client receives, even if it requested a stream."""


def list_fault_cases() -> list[Any]:
    """Every fault, for each pairing in which it can happen."""
    return [
        pytest.param(client, upstream_api, form, name, id=f"{client}-{upstream_api}-{form}-{name}")
        for client, upstream_api in PAIRINGS
        for form in ("whole", "folded", "streamed")
        for name in faults.list_fatal(ANSWER, get_protocol(upstream_api))
        if form != "whole" or name != "without_terminal"
    ]


@check_each(("client", "upstream_api", "form", "name"), list_fault_cases(), parts=4)
def test_a_broken_answer_fails_once(
    client: str,
    upstream_api: str,
    form: str,
    name: str,
    forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    upstream.forget()
    stream = form == "streamed"
    fault = faults.list_fatal(ANSWER, get_protocol(upstream_api))[name]
    upstream.script(fault)

    response = send_request(
        forwarder, client, make_tool_request(client, upstream_api, stream, form)
    )

    assert upstream.requests[-1].body["stream"] is (form != "whole")
    assert response.ending == "failed"
    if (client, upstream_api, form, name) == ("responses", "responses", "folded", "failed"):
        assert response.json["error"]["message"]  # as the upstream has it
        return
    assert response.is_streamed or response.error["message"]
    assert stream or response.status >= 400
    if name in BEFORE_ANY_EVENT:
        assert response.status == BEFORE_ANY_EVENT[name]


@every_pairing
@either
@check_each("code", STATUSES)
def test_a_refusal_reaches_the_client_unchanged(
    client: str,
    upstream_api: str,
    stream: bool,
    code: int,
    forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    upstream.forget()
    headers = {"x-ratelimit-remaining-tokens": "7", "x-should-retry": "true", "x-secret": "no"}
    upstream.script(
        faults.refuse_with_status(code, retry_after=9, param="messages", headers=headers)
    )

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    if code == 401:  # the forwarder's key, and so the forwarder's fault
        assert response.status == 403
        assert response.error["code"] == "upstream_authentication"
        assert response.headers["x-should-retry"] == "false"
        return
    message, kind, name = STATUSES[code]
    param = (
        "input" if (client, upstream_api) == ("responses", "chat") else "messages"
    )  # its own word
    assert response.status == code
    assert response.error == {"message": message, "type": kind, "code": name, "param": param}
    assert response.headers["retry-after"] == "9"
    assert response.headers["x-ratelimit-remaining-tokens"] == "7"
    assert response.headers["x-should-retry"] == "true"
    assert response.headers["x-upstream-request-id"].startswith("req_scripted")
    assert "x-secret" not in response.headers


@every_pairing
def test_an_error_in_the_stream_keeps_its_message(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    stream = faults.error_event(Answer(text=TEXT), after=5)
    upstream.script(replace(stream, framing=replace(stream.framing, delay=0.02)))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert response.status == 200
    assert response.ending == "failed"
    last = response.events[-1]
    error = last["error"] if client == "chat" else last["response"]["error"]
    assert error["code"] == "server_error"
    assert "broke down" in error["message"]


@check_each("upstream_api", PATHS)
def test_a_cut_stream_keeps_its_text(
    upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for client in PATHS:
        upstream.script(faults.cut_connection(Answer(text=TEXT, pieces=8), after=8, reset=False))
        response = send_request(
            forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
        )
        assert response.ending == "failed"
        assert TEXT[:5] in read_text_so_far(response)


def read_text_so_far(response: ClientAnswer) -> str:
    if response.client == "responses":
        deltas = [e for e in response.events if e["type"] == "response.output_text.delta"]
        return "".join(event["delta"] for event in deltas)
    choices = [choice for event in response.events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@every_client
@either
def test_unreachable_upstream_is_a_502(client: str, stream: bool, forwarder: Server) -> None:
    response = send_request(forwarder, client, make_body(client, model="gone/m", stream=stream))

    assert response.status == 502
    assert response.error["code"] == "upstream_unreachable"


# -- silence --------------------------------------------------------------------------------------


def send_to_all_pairings(forwarder: Server, stream: bool) -> list[ClientAnswer]:
    """The answers to one request, sent concurrently in every pairing."""
    with ThreadPoolExecutor(len(PAIRINGS)) as pool:
        return list(
            pool.map(
                lambda pair: send_request(
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

    for response in send_to_all_pairings(forwarder, stream):
        assert response.status == 504
        assert response.error["code"] == "upstream_timeout"

    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2
    assert all(request.closed_by_client.wait(2) for request in upstream.requests)


@check_each("after", [0, 4])
def test_stalled_upstream_stream_fails(
    after: int, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(*[faults.stall(Answer(text=TEXT), after)] * len(PAIRINGS))
    started = time.monotonic()

    for response in send_to_all_pairings(forwarder, stream=True):
        assert response.ending == "failed"
        assert ": keep-alive" in response.text
        assert "stopped sending" in response.text

    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2
    assert all(request.closed_by_client.wait(2) for request in upstream.requests)


def test_a_whole_answer_that_stalls_is_a_504(forwarder: Server, upstream: ScriptedUpstream) -> None:
    for client, upstream_api in [("chat", "responses"), ("responses", "chat")]:
        upstream.script(faults.stall(Answer(text=TEXT), 4))
        response = send_request(forwarder, client, make_body(client, model=f"{upstream_api}/m"))
        assert response.status == 504
        assert response.error["code"] == "upstream_timeout"


@every_pairing
def test_a_slow_upstream_is_waited_for(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Longer than any single silence may last."""
    upstream.forget()
    upstream.script(faults.slow_down(Answer(text=TEXT, pieces=6), delay=0.15))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert response.ending == "completed"
    assert response.content.text == TEXT


# -- clients that leave, connections that stay ----------------------------------------------------


@contextmanager
def open_request(
    server: Server, client: str, body: Json, name: str = "req_x"
) -> Iterator[socket.socket]:
    """Send a request and yield its connection, which is closed at the end."""
    url = urlsplit(server.url)
    data = json.dumps(body).encode()
    head = f"POST /v1{PATHS[client]} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {name}\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=5) as sock:
        sock.sendall(head.encode())
        time.sleep(0.05)  # as most clients do, which send a body on its own
        sock.sendall(data)
        yield sock


def disconnect_after(
    server: Server, client: str, body: Json, marker: bytes, name: str = "req_x"
) -> None:
    """Send a request, read until ``marker`` has arrived, and close the connection."""
    with open_request(server, client, body, name) as sock:
        received = b""
        while marker not in received:
            piece = sock.recv(4096)
            assert piece, received
            received += piece
        time.sleep(0.1)  # all other events are written by now, and only a wait can be left


def wait_for(condition: Callable[[], Any]) -> bool:
    """Does it hold within a moment?"""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


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
    client: str, upstream_api: str, answer: Scripted, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(answer)

    disconnect_after(
        forwarder,
        client,
        make_body(client, model=f"{upstream_api}/m", stream=True),
        marker=b"data: ",
    )

    [request] = upstream.requests
    assert request.closed_by_client.wait(2)


@every_pairing
def test_the_upstream_request_is_cancelled_before_its_answer(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.never_answer())

    with open_request(forwarder, client, make_body(client, model=f"{upstream_api}/m")):
        assert wait_for(lambda: upstream.requests)

    [request] = upstream.requests
    assert request.closed_by_client.wait(PATIENCE / 2)


def test_file_download_is_cancelled_when_the_client_disconnects(serve: Serve) -> None:
    client_left = threading.Event()

    def wait_for_close(peer: Peer) -> None:
        if peer.request() and not peer.request():
            client_left.set()

    with run_server(wait_for_close) as files:
        forwarder = serve({"RESPONSES_BASE_URL": f"{files.url}/v1", "RESPONSES_API_KEY": KEY})
        url = urlsplit(forwarder.url)
        with socket.create_connection((str(url.hostname), url.port or 80), timeout=5) as sock:
            sock.sendall(b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wait_for(lambda: files.requests)

        assert client_left.wait(2)


def test_file_upload_is_cancelled_when_the_client_disconnects(serve: Serve) -> None:
    client_left = threading.Event()

    def wait_for_close(peer: Peer) -> None:
        if peer.request() and not peer.request():
            client_left.set()

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
        with open_request(forwarder, "chat", body):
            assert wait_for(lambda: files.requests)
            assert b"POST /v1/files" in bytes(files.requests[0])

        assert client_left.wait(2)


@every_pairing
def test_client_disconnect_is_not_counted_as_upstream_failure(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(faults.stall(Answer(text="word " * 40, pieces=40), after=9))
    earlier_metrics = http.get(f"{forwarder.url}/metrics").text
    name = f"req_{client}_over_{upstream_api}_left"

    body = make_body(client, model=f"{upstream_api}/m", stream=True)
    disconnect_after(forwarder, client, body, marker=b"data: ", name=name)

    assert wait_for(lambda: name in forwarder.log)
    [line] = [json.loads(line) for line in forwarder.log.splitlines() if name in line]
    assert (line["status"], line["error"], line["left"]) == (499, "client_left", True)
    assert list_failures(http.get(f"{forwarder.url}/metrics").text) == list_failures(
        earlier_metrics
    )


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

    response = send_request(forwarder, "chat", make_body("chat", model="chat/m"))

    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert "x-upstream-request-id" not in response.headers


@every_pairing
def test_connections_to_the_upstream_are_used_again(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for stream in (True, False, True, True, False, True):
        response = send_request(
            forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
        )
        assert response.ending == "completed"

    assert len({request.connection_id for request in upstream.requests}) == 1


@every_pairing
def test_a_connection_is_not_used_again_after_a_cut(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    body = make_body(client, model=f"{upstream_api}/m", stream=True)
    upstream.script(faults.cut_connection(Answer(text=TEXT)))
    send_request(forwarder, client, body)

    assert send_request(forwarder, client, body).ending == "completed"


@check_each("upstream_api", PATHS)
def test_stream_that_stays_open_after_its_end_is_closed(
    upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The client does not wait for an upstream that keeps the connection open."""
    upstream.forget()
    lingering = Stream(Answer(text=TEXT), ending=lambda frames: [*frames, Stall()])
    for client in PATHS:
        upstream.script(lingering)
        started = time.monotonic()
        response = send_request(
            forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
        )
        assert response.content.text == TEXT
        assert response.ending == "completed"
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


@check_each(("client", "change", "param"), MALFORMED)
def test_a_malformed_request_is_refused_by_its_parameter(
    client: str, change: Json, param: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    response = send_request(forwarder, client, {**make_body(client), **change})

    assert response.status == 400, response.text
    assert response.error["type"] == "invalid_request_error"
    assert response.error["param"] == param
    assert upstream.requests == []


@every_client
@check_each("body", [b"", b"{", b"\xff\xfe", b"nonsense", b'{"model": NaN}', b"[]", b'"x"'])
def test_a_body_that_is_no_object_is_refused(client: str, body: bytes, forwarder: Server) -> None:
    response = send_request(forwarder, client, body)

    assert response.status == 400
    assert response.error["code"] == "invalid_json"


@every_client
def test_a_body_over_the_limit_is_refused(client: str, forwarder: Server) -> None:
    response = send_request(forwarder, client, make_body(client, "x" * 70_000))

    assert response.status == 413
    assert response.error["code"] == "request_too_large"


@every_client
def test_malformed_bodies_are_client_errors(client: str, forwarder: Server) -> None:
    """Malformed bodies are reported as the client's errors."""
    wild: list[Any] = [None, True, -1, 1e300, "", "x", [], {}, [[]], [None], [{}], {"type": None}]
    for name in NAMES[client]:
        for value in wild:
            body = {**make_body(client), name: value}
            response = send_request(forwarder, client, body)
            assert response.status < 500, (name, value, response.text)


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
def test_passthrough_request_is_validated_by_its_upstream(
    client: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    body = {**make_body(client, model=f"{client}/m"), "temperature": "hot"}

    response = send_request(forwarder, client, body)

    assert response.status == 400
    assert response.error["param"] == "temperature"
    assert len(upstream.requests) == 1


def test_keys_in_an_upstream_s_error_are_redacted(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    for client, upstream_api in PAIRINGS:
        for status in (400, 429, 500):
            upstream.script(faults.refuse_with_status(status, message=f"Your key {KEY} is tired."))
            response = send_request(forwarder, client, make_body(client, model=f"{upstream_api}/m"))
            assert response.error["message"] == "Your key *** is tired."
        upstream.script(faults.error_in_200(f"Your key {KEY} is tired."))
        assert (
            KEY
            not in send_request(
                forwarder, client, make_body(client, model=f"{upstream_api}/m")
            ).text
        )
        upstream.script(quoting_events(upstream_api))
        body = make_body(client, model=f"{upstream_api}/m", stream=True)
        assert KEY not in send_request(forwarder, client, body).text
    assert KEY not in forwarder.log


def quoting_events(upstream_api: str) -> Raw:
    """A stream that breaks, and quotes the key in doing so."""
    error = {"message": f"Your key {KEY} is tired.", "type": "x", "code": "server_error"}
    type_field = {"type": "error"} if upstream_api == "responses" else {}
    return Raw(events=[{**type_field, "error": error}], framing=Framing(done=False))
