"""The Responses API over a WebSocket, under gunicorn and under ``flask run``."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from simple_websocket import Client, ConnectionClosed
from wsproto.events import TextMessage

from tests.fake_provider import ScriptedUpstream, Stream
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.faults import cut_connection, never_answer, refuse_with_status, stall
from tests.fake_provider.scenarios import HELLO
from tests.fake_provider.wire import Stall
from tests.helpers import sdk
from tests.helpers.packages import import_client
from tests.helpers.waiting import wait_until
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import FLASK, GUNICORN, Server, run_forwarder

Json = dict[str, Any]
TERMINALS = ("response.completed", "response.incomplete", "response.failed", "error")


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class WebSocketSession:
    """A connection, and the turns on it."""

    def __init__(self, server: Server, path: str = "/v1/responses", **headers: str) -> None:
        url = server.url.replace("http", "ws", 1) + path
        self.ws = Client.connect(url, headers=headers)

    def run_turn(self, turn_input: Any, **parameters: Any) -> list[Json]:
        """The events of one turn."""
        self.send(turn_input, **parameters)
        return self.receive_events()

    def send(self, turn_input: Any, **parameters: Any) -> None:
        body = {"type": "response.create", "model": "chat/m", "input": turn_input, **parameters}
        self.ws.send(json.dumps(body))

    def receive_events(self, seconds: float = 10) -> list[Json]:
        events: list[Json] = []
        while not events or events[-1]["type"] not in TERMINALS:
            message = self.ws.receive(timeout=seconds)
            assert message is not None, events
            events.append(json.loads(message))
        return events

    def wait_for_close(self, seconds: float = 10) -> int:
        """The code with which the server closes."""
        try:
            while self.ws.receive(timeout=seconds) is not None:
                pass
        except ConnectionClosed as closed:
            return int(closed.reason)
        raise AssertionError("it is still open")


@contextlib.contextmanager
def open_session(server: Server, **options: Any) -> Iterator[WebSocketSession]:
    session = WebSocketSession(server, **options)
    try:
        yield session
    finally:
        with contextlib.suppress(ConnectionClosed):
            session.ws.close()


def text_of(events: list[Json]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


def read_log(server: Server, route: str = "responses") -> list[Json]:
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("route") == route]


@pytest.fixture(scope="module", params=[GUNICORN, FLASK], ids=["gunicorn", "flask"])
def each_server(
    request: pytest.FixtureRequest, upstream: ScriptedUpstream, tmp_path_factory: Any
) -> Iterator[Server]:
    """The forwarder in each of its two servers."""
    folder: Path = tmp_path_factory.mktemp("websocket")
    stores = {"RESPONSES_QUIRKS": '{"keeps_responses": true}'}
    with run_forwarder(make_settings(upstream, **stores), folder, request.param) as server:
        yield server


def test_a_turn_has_the_events_of_a_stream(each_server: Server) -> None:
    with open_session(each_server) as session:
        events = session.run_turn("hi")

    assert [m for event in events for m in sdk.event_mistakes(event)] == []
    assert events[-1]["type"] == "response.completed"
    assert text_of(events) == HELLO
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


@pytest.mark.parametrize(
    ("base", "parameters", "forms"),
    [
        ("", {}, ["content"]),
        ("", {"reasoning": {"summary": "auto"}}, ["summary"]),
        ("/both", {}, ["content", "summary"]),
        ("/think", {}, ["content"]),
    ],
)
def test_a_connection_has_the_reasoning_style_of_its_base_path(
    base: str, parameters: Json, forms: list[str], each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Hello.", reasoning="Hm."))
    with open_session(each_server, path=f"{base}/v1/responses") as session:
        events = session.run_turn("hi", **parameters)

    item = events[-1]["response"]["output"][0]
    assert [name for name in ("content", "summary") if item.get(name)] == forms


def test_turns_continue_each_other_without_storage(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    with open_session(each_server) as session:
        first = session.run_turn("remember cobalt", store=False, instructions="old")[-1]["response"]
        second = session.run_turn("and?", store=False, previous_response_id=first["id"])[-1][
            "response"
        ]
        third = session.run_turn("so?", store=False, previous_response_id=second["id"])

    sent_texts = [[m["content"] for m in r.body["messages"]] for r in upstream.requests]
    assert sent_texts[1] == ["remember cobalt", HELLO, "and?"]
    assert [len(messages) for messages in sent_texts] == [2, 3, 5]
    assert second["previous_response_id"] == first["id"]
    assert third[0]["response"]["previous_response_id"] == second["id"]


def test_a_tool_loop_sends_only_new_items(each_server: Server, upstream: ScriptedUpstream) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    upstream.script(Answer(calls=[Call("f", "{}", id="c1")]), Answer(text="42 it is"))
    with open_session(each_server) as session:
        first = session.run_turn("go", tools=tools, store=False)[-1]["response"]
        [call] = first["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
        parameters = {"tools": tools, "store": False, "previous_response_id": first["id"]}
        events = session.run_turn([output], **parameters)

    assert text_of(events) == "42 it is"
    assert [m["role"] for m in upstream.requests[-1].body["messages"]] == [
        "user",
        "assistant",
        "tool",
    ]


def test_large_messages_arrive_whole_in_both_directions(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="y" * 3_000_000, pieces=3))
    with open_session(each_server) as session:
        events = session.run_turn("x" * 2_000_000)

    assert len(upstream.requests[0].body["messages"][0]["content"]) == 2_000_000
    assert text_of(events) == "y" * 3_000_000


def test_large_messages_back_to_back_are_all_answered(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    message = {"type": "response.create", "model": "chat/m", "input": "x" * 400_000}
    upstream.script(*[Answer(text=str(number)) for number in range(3)])
    with open_session(each_server) as session:
        frame: bytes = session.ws.ws.send(TextMessage(data=json.dumps(message)))
        session.ws.sock.sendall(
            frame * 3
        )  # the end of one and the start of the next arrive together
        assert [text_of(session.receive_events()) for _ in range(3)] == ["0", "1", "2"]


# -- errors -----------------------------------------------------------------------------------------


def error_of(events: list[Json]) -> tuple[int, str | None, str | None]:
    [event] = events
    assert event["type"] == "error"
    return event["status"], event["error"]["code"], event["error"]["param"]


def test_a_response_of_another_connection_is_not_found(each_server: Server) -> None:
    with open_session(each_server) as session:
        response_id = session.run_turn("hi", store=False)[-1]["response"]["id"]
    with open_session(each_server) as session:
        refusal = session.run_turn("and?", store=False, previous_response_id=response_id)
        events = session.run_turn("hi", store=False)

    assert error_of(refusal) == (400, "previous_response_not_found", "previous_response_id")
    assert events[-1]["type"] == "response.completed"


def test_a_failed_turn_removes_the_response_that_it_continued(each_server: Server) -> None:
    stray_output = {"type": "function_call_output", "call_id": "nobody", "output": ""}
    with open_session(each_server) as session:
        response_id = session.run_turn("hi", store=False)[-1]["response"]["id"]
        failed_events = session.run_turn(
            [stray_output], store=False, previous_response_id=response_id
        )
        stale_events = session.run_turn("and?", store=False, previous_response_id=response_id)

    assert error_of(failed_events)[0] == 400
    assert error_of(stale_events)[1] == "previous_response_not_found"


def test_invalid_message_is_an_error_and_keeps_the_connection(each_server: Server) -> None:
    with open_session(each_server) as session:
        for message in ("{", "[]", '{"type": "x"}', '{"x": NaN}', "\ud7ff"):
            session.ws.send(message)
            assert error_of(session.receive_events())[0] == 400
        refusal = session.run_turn("hi", background=True)
        missing = session.run_turn("hi", model="")
        events = session.run_turn("hi", stream=True, stream_options={"include_obfuscation": False})

    assert error_of(refusal)[2] == "background"
    assert error_of(missing)[2] == "model"
    assert events[-1]["type"] == "response.completed"


def test_the_upstream_s_refusal_has_its_status(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(refuse_with_status(429, retry_after=7))
    with open_session(each_server) as session:
        [event] = session.run_turn("hi")

    assert event["status"] == 429
    assert event["headers"]["retry-after"] == "7"


def test_a_stream_that_breaks_has_one_ending(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(cut_connection(Answer(text="one two three", pieces=9)))
    with open_session(each_server) as session:
        broken_events = session.run_turn("hi")
        next_events = session.run_turn("hi")

    assert broken_events[-1]["type"] == "response.failed"
    assert [e["type"] for e in broken_events].count("error") == 0
    assert [e["sequence_number"] for e in broken_events] == list(range(len(broken_events)))
    assert next_events[0]["type"] == "response.created"


def test_a_finished_empty_turn_is_an_answer(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer())
    with open_session(each_server) as session:
        events = session.run_turn("hi")

    assert events[-1]["type"] == "response.completed"


def test_a_response_can_be_prepared_and_continued(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    """As Codex does before its first turn."""
    with open_session(each_server) as session:
        prepared = session.run_turn([{"role": "user", "content": "rules"}], generate=False)
        request_count = len(upstream.requests)
        previous = prepared[-1]["response"]["id"]
        session.ws.send(json.dumps({"type": "response.processed", "response_id": previous}))
        events = session.run_turn("go", previous_response_id=previous)
        refusal = session.run_turn("go", previous_response_id="resp_x", generate=False)

    assert [e["type"] for e in prepared] == ["response.created", "response.completed"]
    assert [m for event in prepared for m in sdk.event_mistakes(event)] == []
    assert request_count == 0
    assert events[-1]["type"] == "response.completed"
    assert [m["content"] for m in upstream.requests[0].body["messages"]] == ["rules", "go"]
    assert error_of(refusal)[1] == "previous_response_not_found"


# -- the connection ---------------------------------------------------------------------------------


def test_unauthorized_handshake_gets_a_status(serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream, FORWARDER_API_KEYS="k"))

    refusal = httpx2.get(f"{server.v1}/responses", headers=HANDSHAKE, trust_env=False)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (401, "invalid_api_key")
    with open_session(server, Authorization="Bearer k") as session:
        assert session.run_turn("hi")[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("model", "reasoning_included"), [("chat/m", "true"), ("responses/m", None)]
)
def test_handshake_has_the_headers_that_codex_reads(
    model: str, reasoning_included: str | None, each_server: Server
) -> None:
    catalog = httpx2.get(f"{each_server.v1}/models", trust_env=False)
    metadata = json.dumps({"model": model})

    sock, answer = shake_hands(each_server, {"X-Codex-Turn-Metadata": metadata})
    sock.close()
    lines = [line.partition(": ") for line in answer.split("\r\n")]
    headers = {name.lower(): value for name, _, value in lines}

    assert headers["x-models-etag"] == catalog.headers["etag"]
    assert headers.get("x-reasoning-included") == reasoning_included


CODEX_HEADERS = {
    "openai-model": "safer",
    "x-reasoning-included": "true",
    "x-ratelimit-remaining-tokens": "7",
    "x-codex-primary-used-percent": "12.5",
    "x-secret": "no",
}


def test_codex_gets_the_headers_of_an_answer(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    """In the first event, in events of its own, and in the next handshake."""
    codex = {"X-Codex-Turn-Metadata": '{"model": "responses/m"}'}
    upstream_answer = Stream(Answer(text=HELLO), headers=CODEX_HEADERS)
    upstream.script(upstream_answer, upstream_answer, upstream_answer)
    with open_session(each_server, **codex) as session:
        over_chat = session.run_turn("hi")
        native = session.run_turn("hi", model="responses/m")
    sock, answer = shake_hands(each_server, codex)
    sock.close()
    with open_session(each_server) as session:
        events_without_codex = session.run_turn("hi", model="responses/m")

    kinds = ["codex.response.metadata", "codex.rate_limits", "response.created"]
    assert [event["type"] for event in native[:3]] == kinds
    etag = httpx2.get(f"{each_server.v1}/models", trust_env=False).headers["etag"]
    assert native[0]["headers"] == {"x-models-etag": etag}
    assert native[1]["rate_limits"]["primary"]["used_percent"] == 12.5
    headers = native[2]["headers"]
    assert {k: headers.get(k) for k in CODEX_HEADERS} == {**CODEX_HEADERS, "x-secret": None}
    assert headers["x-forwarder-upstream"] == "responses"
    assert over_chat[2]["headers"]["openai-model"] == "chat/m"
    assert headers["x-request-id"] != over_chat[2]["headers"]["x-request-id"]
    assert not any("headers" in event for event in native[3:] + events_without_codex)
    assert events_without_codex[0]["type"] == "response.created"
    assert "x-reasoning-included: true" in answer.lower()


def test_get_without_a_complete_handshake_is_refused(each_server: Server) -> None:
    plain_response = httpx2.get(f"{each_server.v1}/responses", trust_env=False)
    incomplete_response = httpx2.get(
        f"{each_server.v1}/responses",
        headers={**HANDSHAKE, "Sec-WebSocket-Key": "short"},
        trust_env=False,
    )

    assert (plain_response.status_code, plain_response.json()["error"]["code"]) == (
        426,
        "upgrade_required",
    )
    assert (incomplete_response.status_code, incomplete_response.json()["error"]["code"]) == (
        400,
        "invalid_handshake",
    )


def test_messages_have_a_limit(serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream, FORWARDER_MAX_BODY="1k"))
    with open_session(server) as session:
        session.send("x" * 2000)
        assert session.wait_for_close() == 1009


def test_too_many_waiting_messages_close_the_connection(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(never_answer())
    with open_session(forwarder) as session:
        for _ in range(12):
            session.send("hi")
        assert session.wait_for_close() == 1008
    wait_until(lambda: upstream.requests[0].closed_by_client.is_set())


def test_an_idle_connection_is_closed(serve: Serve, upstream: ScriptedUpstream) -> None:
    server = serve(make_settings(upstream, FORWARDER_WEBSOCKET_IDLE="0.5"))
    with open_session(server) as session:
        session.run_turn("hi")
        assert session.wait_for_close() == 1001


def test_turns_are_answered_one_after_the_other(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="first"), Answer(text="second"))
    with open_session(each_server) as session:
        session.send("a")
        session.send("b")
        assert [text_of(session.receive_events()), text_of(session.receive_events())] == [
            "first",
            "second",
        ]


def test_the_upstream_connection_is_closed_when_the_client_disconnects(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Under threads the next sign of life finds out."""
    upstream.script(never_answer())
    with open_session(forwarder) as session:
        session.send("hi")
        wait_until(lambda: upstream.requests)
    wait_until(lambda: upstream.requests[0].closed_by_client.is_set())
    wait_until(lambda: any(line.get("left") for line in read_log(forwarder)))


def test_an_interrupted_turn_ends_incomplete_and_can_be_continued(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(stall(Answer(text="One two three"), after=2), Answer(text="four"))
    with open_session(each_server) as session:
        session.send("count")
        first_event = json.loads(session.ws.receive(timeout=10))
        wait_until(lambda: upstream.requests)
        name = first_event["response"]["id"]
        mode = {"mode": "discard_partial_items"}
        session.ws.send(json.dumps({"type": "response.interrupt", "response_id": name, **mode}))

        last_event = session.receive_events()[-1]
        ack = json.loads(session.ws.receive(timeout=10))
        assert last_event["type"] == "response.incomplete"
        assert last_event["response"]["id"] == name
        assert last_event["response"]["incomplete_details"] == {"reason": "interrupted"}
        assert (last_event["response"]["output"], last_event["response"]["error"]) == ([], None)
        assert ack == {"type": "response.interrupt.accepted", "response_id": name}
        assert upstream.requests[0].closed_by_client.wait(10)

        assert text_of(session.run_turn("go on", previous_response_id=name)) == "four"
        sent_texts = [message["content"] for message in upstream.requests[1].body["messages"]]
        assert sent_texts == ["count", "go on"]


def test_turn_after_an_interruption_has_the_finished_items(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    def stall_behind_item(frames: list[bytes]) -> list[Any]:
        [end] = [i for i, frame in enumerate(frames, 1) if b"output_item.done" in frame][:1]
        return [*frames[:end], Stall(30), *frames[end:]]

    answer = Answer(text="Let me see.", calls=[Call("look", "{}")])
    upstream.script(Stream(answer, ending=stall_behind_item), Answer(text="ok"))
    with open_session(forwarder) as session:
        session.send("count", model="responses/m", store=False)
        while (event := json.loads(session.ws.receive(timeout=10)))[
            "type"
        ] != "response.output_item.done":
            pass
        session.ws.send(json.dumps({"type": "response.interrupt"}))
        response = session.receive_events()[-1]["response"]
        assert json.loads(session.ws.receive(timeout=10))["type"] == "response.interrupt.accepted"

        assert response["output"] == [event["item"]]
        session.run_turn(
            "go on", model="responses/m", previous_response_id=response["id"], store=False
        )
        assert "Let me see." in json.dumps(upstream.requests[1].body["input"])


def test_each_turn_is_a_request_for_the_log_the_counts_and_the_limits(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, FORWARDER_RATE_LIMIT_REQUESTS="2/minute"))
    with open_session(server, **{"X-Request-Id": "mine"}) as session:
        session.run_turn("hi")
        session.run_turn("hi")
        assert error_of(session.run_turn("hi"))[:2] == (429, "rate_limit_exceeded")

    wait_until(lambda: len(read_log(server)) == 3)
    log_lines = read_log(server)
    assert [line["status"] for line in log_lines] == [200, 200, 429]
    assert log_lines[0]["id"] == "mine" != log_lines[1]["id"]
    assert log_lines[0]["output_tokens"] > 0
    metrics = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    assert (
        'forwarder_requests_total{model="m",route="responses",status="200",upstream="chat"} 2.0'
        in metrics
    )
    wait_until(lambda: read_log(server, "websocket"))


def test_shutdown_closes_idle_connections_and_fails_running_turns(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, GUNICORN_GRACEFUL_TIMEOUT="5"))
    upstream.script(never_answer())
    with open_session(server) as busy, open_session(server) as idle:
        busy.send("hi")
        wait_until(lambda: upstream.requests)
        server.process.send_signal(signal.SIGTERM)
        started_at = time.monotonic()

        assert idle.wait_for_close() == 1001
        assert time.monotonic() - started_at < 3
        assert error_of(busy.receive_events())[:2] == (503, "shutting_down")
        assert busy.wait_for_close() == 1001
    assert server.process.wait(10) == 0


# -- over Responses upstreams, and by the SDK -------------------------------------------------------


def test_storing_upstream_continues_its_own_stored_responses(
    each_server: Server, upstream: ScriptedUpstream
) -> None:
    with open_session(each_server) as session:
        stored_id = session.run_turn("hi", model="responses/m")[-1]["response"]["id"]
        session.run_turn("and?", model="responses/m", previous_response_id=stored_id)
        local_id = session.run_turn("hi", model="responses/m", store=False)[-1]["response"]["id"]
        session.run_turn("and?", model="responses/m", store=False, previous_response_id=local_id)

    _, second_body, _, fourth_body = [r.body for r in upstream.requests]
    assert (second_body["previous_response_id"], second_body["input"]) == (stored_id, "and?")
    assert "previous_response_id" not in fourth_body
    assert len(fourth_body["input"]) == 3


def test_the_sdk_s_own_connection_works(forwarder: Server) -> None:
    import_client("websockets")
    client = OpenAI(base_url=forwarder.v1, api_key=KEY)
    with client.responses.connect() as connection:
        include: Any = ["no.such"]
        connection.response.create(model="chat/m", input="hi", include=include)
        kinds, extras = [], []
        for event in connection:
            kinds.append(event.type)
            extras.append(event.model_extra)
            if event.type in TERMINALS:
                break

    assert kinds[-1] == "response.completed"
    assert extras[0] == {"headers": {"X-Forwarder-Dropped": "include.no.such"}}


def raw(server: Server) -> socket.socket:
    """A connection after its handshake, in bytes."""
    return shake_hands(server, {})[0]


def shake_hands(server: Server, headers: dict[str, str]) -> tuple[socket.socket, str]:
    """A connection, and the answer to its handshake."""
    host, _, port = server.url.rpartition("//")[2].partition(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    head = "".join(f"{name}: {value}\r\n" for name, value in {**HANDSHAKE, **headers}.items())
    sock.sendall(f"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    answer = sock.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 101")
    return sock, answer


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff\xff", b"\x81\x02hi", b"GET / HTTP/1.1\r\n\r\n"], ids=repr
)
def test_invalid_frame_ends_the_connection(data: bytes, forwarder: Server) -> None:
    with raw(forwarder) as sock:
        sock.sendall(data)
        remaining_bytes = sock.recv(4096)
        while remaining_bytes:
            assert b"HTTP" not in remaining_bytes
            remaining_bytes = sock.recv(4096)
    assert "Traceback" not in forwarder.log


def test_an_aborted_connection_releases_its_resources(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(never_answer())
    line_count = len(read_log(forwarder, "websocket"))
    with raw(forwarder) as sock:
        body = json.dumps({"type": "response.create", "model": "chat/m", "input": "hi"}).encode()
        sock.sendall(b"\x81" + bytes([0x80 | len(body)]) + b"\0\0\0\0" + body)
        wait_until(lambda: upstream.requests)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: upstream.requests[0].closed_by_client.is_set())
    wait_until(lambda: len(read_log(forwarder, "websocket")) > line_count)
    assert "Traceback" not in forwarder.log


def test_a_slow_client_gets_everything_and_makes_the_upstream_wait(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="y" * 20_000_000, pieces=2000))
    with raw(forwarder) as sock:
        body = json.dumps({"type": "response.create", "model": "chat/m", "input": "hi"}).encode()
        sock.sendall(b"\x81" + bytes([0x80 | len(body)]) + b"\0\0\0\0" + body)
        time.sleep(2)
        assert not upstream.requests[0].finished.is_set()
        received_bytes = 0
        while received_bytes < 20_000_000:
            data = sock.recv(2**20)
            assert data
            received_bytes += len(data)
    assert "Traceback" not in forwarder.log
