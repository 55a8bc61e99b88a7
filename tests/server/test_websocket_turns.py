"""Turns over a fake WebSocket."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx2
import orjson
import pytest
from flask import Flask
from simple_websocket import ConnectionClosed

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.core import paced_iteration
from forwarder.core.body_memory import BodyReservation
from forwarder.core.data_urls import Blob
from forwarder.core.errors import MediaUnavailable, TooLarge
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.server import request_hooks
from forwarder.server.extension import get_extension
from forwarder.server.websocket_history import HistoryEntry
from forwarder.server.websocket_turns import MAX_WAITING_MESSAGES, WebSocketSession
from tests.helpers.check_cases import check_each
from tests.helpers.waiting import wait_until
from tests.server.conftest import Serve, make_stream_response

Json = dict[str, Any]


IDLE = object()
"""In a script: wait until the session has served all messages before."""

STAY = object()
"""In a script: stay connected until the session closes the connection."""


class ScriptedWebSocket:
    """A fake WebSocket with scripted messages; records events and close code.

    The client disconnects as soon as all messages of the script are served.  A function in the
    script is called.
    """

    def __init__(self, *messages: Any) -> None:
        self.incoming: queue.Queue[Any] = queue.Queue()
        for message in messages:
            self.incoming.put(message)
        self.connected = True
        self.sent: list[Json] = []
        self.code: int | None = None
        self.closed = threading.Event()
        self.broken = False
        self.sock = SimpleNamespace(message_bytes=0, start_message=self.start_message)
        self.input_buffer: list[Any] = []
        self.incoming_message: str | bytearray | None = None
        self.pong_received = True
        self._received = self._waits = 0

    def start_message(self) -> None:
        self.sock.message_bytes = 0

    def observe(self, session: WebSocketSession) -> None:
        """Count how often the session waits for its next message."""
        next_message = session._next_message

        def count_wait() -> bytes | None:
            self._waits += 1
            return next_message()

        session._next_message = count_wait  # type: ignore[method-assign]
        self._session = session
        self._received = self._waits = 0

    def _has_served_all(self) -> bool:
        return self._waits > self._received or self._session._gone

    def receive(self, timeout: float) -> Any:
        try:
            got = self.incoming.get_nowait()
        except queue.Empty:
            wait_until(lambda: self._has_served_all() or not self.incoming.empty())
            if not self.incoming.empty():
                return self.receive(timeout)
            self.connected = False
            raise ConnectionClosed from None
        if got is IDLE:
            wait_until(self._has_served_all)
            return self.receive(timeout)
        if got is STAY:
            wait_until(lambda: self._session._gone)
            return self.receive(timeout)
        if callable(got):
            got()
            return self.receive(timeout)
        self._received += 1
        return got if isinstance(got, str | bytes) else json.dumps(got)

    def send(self, data: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.sent.append(json.loads(data))

    def close(self, code: int, reason: str) -> None:
        self.code = code
        assert reason
        self.connected = False
        self.closed.set()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The forwarder with a Chat upstream that answers hi."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    transport = httpx2.MockTransport(lambda _: make_stream_response(chunk))
    monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
    return create_app(
        Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1", "FORWARDER_WEBSOCKET_IDLE": "5"})
    )


def new_session(app: Flask, ws: ScriptedWebSocket) -> WebSocketSession:
    forwarder = get_extension(app)
    session = WebSocketSession(ws, forwarder.services, forwarder.gateway)
    ws.observe(session)
    return session


def run_session(app: Flask, ws: ScriptedWebSocket) -> ScriptedWebSocket:
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        new_session(app, ws).run()
    return ws


def create(**more: Any) -> Json:
    return {"type": "response.create", "model": "m", "input": "hi", **more}


def list_sent_types(ws: ScriptedWebSocket) -> list[str]:
    return [event["type"] for event in ws.sent]


@pytest.mark.parametrize("form", [json.dumps, lambda body: json.dumps(body).encode()])
def test_a_message_may_be_text_or_bytes(form: Any, app: Flask) -> None:
    ws = run_session(app, ScriptedWebSocket(form(create())))

    assert list_sent_types(ws)[0] == "response.created"
    assert list_sent_types(ws)[-1] == "response.completed"


def test_a_type_of_a_message_is_quoted_by_200_characters(app: Flask) -> None:
    [event] = run_session(app, ScriptedWebSocket(json.dumps(create(type="v" * 5000)))).sent

    assert event["error"]["param"] == "type"
    assert "v" * 199 + "…" in event["error"]["message"]
    assert len(event["error"]["message"]) < 300


def count_usage(app: Flask) -> tuple[int, int, int]:
    """Requests, errors and cancelled requests so far."""
    now = int(time.time())
    report = get_extension(app).services.usage_reports.make_report(now - 86400, now + 86400)
    counts = report.total.counts
    return counts.requests, counts.errors, counts.cancelled


@pytest.fixture
def counting_app(app: Flask) -> Flask:
    """An application with the same upstream, and usage in memory."""
    environment = {"CHAT_BASE_URL": "http://up.test/v1", "FORWARDER_DATABASE_URL": "none"}
    return create_app(Settings.from_env(environment))


def test_turns_count_as_usage_and_notifications_do_not(counting_app: Flask) -> None:
    run_session(
        counting_app, ScriptedWebSocket({"type": "response.processed"}, create(), create(tools=5))
    )

    assert count_usage(counting_app) == (2, 1, 0)


def test_turn_of_a_client_that_leaves_counts_as_cancelled(counting_app: Flask) -> None:
    ws = ScriptedWebSocket(create())
    ws.broken = True
    run_session(counting_app, ws)

    assert count_usage(counting_app) == (1, 0, 1)


def test_notifications_of_codex_get_no_answer(app: Flask) -> None:
    assert run_session(app, ScriptedWebSocket({"type": "response.processed"})).sent == []


def interrupt(**more: Any) -> Json:
    return {"type": "response.interrupt", "mode": "discard_partial_items", **more}


def test_late_interrupt_is_accepted_without_effect(app: Flask) -> None:
    ws = ScriptedWebSocket(create(), IDLE, interrupt(stream_id="a"), create())
    run_session(app, ws)

    [ack] = [event for event in ws.sent if event["type"].startswith("response.interrupt")]
    first = ws.sent[0]["response"]["id"]
    assert ack == {"type": "response.interrupt.accepted", "response_id": first, "stream_id": "a"}
    assert list_sent_types(ws).count("response.completed") == 2


def test_an_interrupt_of_an_unknown_response_fails(app: Flask) -> None:
    ws = run_session(
        app, ScriptedWebSocket(interrupt(), create(), interrupt(response_id="resp_no"))
    )

    failures = [event for event in ws.sent if event["type"] == "response.interrupt.failed"]
    assert [event["response_id"] for event in failures] == [None, "resp_no"]
    assert "response.completed" in list_sent_types(ws)


@pytest.mark.parametrize("more", [{"pad": "x" * 5000}, {"type": "response.interrupts"}])
def test_malformed_interrupt_gets_one_error(more: Json, app: Flask) -> None:
    [event] = run_session(app, ScriptedWebSocket(interrupt(**more))).sent

    assert (event["type"], event["error"]["param"]) == ("error", "type")


def test_shutdown_closes_a_connection(app: Flask) -> None:
    ws = run_session(app, ScriptedWebSocket(IDLE, get_extension(app).running.announce, STAY))

    assert ws.code == 1001


def test_too_many_waiting_messages_close_the_connection(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = ScriptedWebSocket(*[create()] * (MAX_WAITING_MESSAGES + 2))
    monkeypatch.setattr(request_hooks, "authenticate", lambda *_, **__: ws.closed.wait(10))

    run_session(app, ws)

    assert ws.code == 1008


def test_message_of_a_client_that_has_left_starts_no_turn(counting_app: Flask) -> None:
    class Hasty(ScriptedWebSocket):
        def receive(self, timeout: float) -> Any:
            if self.incoming.empty():
                self.connected = False
                raise ConnectionClosed
            return super().receive(timeout)

    ws = Hasty(create())
    with counting_app.test_request_context("/v1/responses"):
        counting_app.preprocess_request()
        session = new_session(counting_app, ws)
        session._read_messages()  # the message and the end of the connection arrive together
        session.run()
    assert count_usage(counting_app) == (0, 0, 0)


@check_each(
    "response",
    [None, {"id": []}, {"id": "resp_1", "output": True}, {"id": "resp_1", "output": [None]}],
)
def test_malformed_end_of_a_response_fails_only_its_turn(response: Any, serve: Serve) -> None:
    created = {"type": "response.created", "response": {"id": "resp_1", "model": "m"}}
    completed = {"type": "response.completed", "response": response}
    client = serve(lambda _: make_stream_response(created, completed), RESPONSES_MODELS="m")

    ws = run_session(
        client.application, ScriptedWebSocket(create(store=False), create(store=False))
    )

    assert [event["type"] for event in ws.sent] == 2 * ["response.created", "response.failed"]
    assert ws.sent[1]["response"]["error"]["message"].endswith("event that cannot be read.")
    assert ws.code is None


@check_each("item", ["text", ["x"], None])
@check_each("response_id", ["resp_1", ["resp_1"]])
def test_stream_that_breaks_off_after_malformed_events_fails_only_its_turn(
    item: Any, response_id: Any, serve: Serve
) -> None:
    created = {"type": "response.created", "response": {"id": response_id, "model": "m"}}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    client = serve(lambda _: make_stream_response(created, done), RESPONSES_MODELS="m")

    ws = run_session(
        client.application, ScriptedWebSocket(create(store=False), create(store=False))
    )

    assert [e["type"] for e in ws.sent if "response" in e].count("response.failed") == 2
    assert ws.code is None


def test_failed_write_ends_the_session(app: Flask) -> None:
    ws = ScriptedWebSocket(create())
    ws.broken = True

    run_session(app, ws)

    assert ws.sent == []


def test_internal_error_closes_the_connection_and_is_logged(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ws = ScriptedWebSocket(create())
    monkeypatch.setattr(ws, "send", lambda data: int("ours"))

    assert run_session(app, ws).code == 1011
    assert "ours" in caplog.text


def test_stream_id_is_copied_to_events(app: Flask) -> None:
    ws = run_session(
        app,
        ScriptedWebSocket(
            create(stream_id="a"),
            create(stream_id="b.2", input=[{"type": "no"}]),
            create(),
            {"type": "response.steer", "stream_id": "a", "input": "more"},
        ),
    )

    turns = [
        (e["type"], e.get("stream_id"))
        for e in ws.sent
        if e["type"] in ("response.completed", "error")
    ]
    assert turns == [
        ("response.completed", "a"),
        ("error", "b.2"),
        ("response.completed", None),
        ("error", "a"),
    ]
    completed = [event["type"] for event in ws.sent].index("response.completed")
    assert {event.get("stream_id") for event in ws.sent[: completed + 1]} == {"a"}
    assert "response.steer" in ws.sent[-1]["error"]["message"]


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 257, 7, ["a"]])
def test_invalid_stream_id_is_refused(name: Any, app: Flask) -> None:
    (event,) = run_session(app, ScriptedWebSocket(create(stream_id=name))).sent

    assert (event["type"], event["status"]) == ("error", 400)
    assert (event["error"]["code"], event["error"]["param"]) == ("invalid_stream_id", "stream_id")
    assert "stream_id" not in event


def test_first_event_of_a_turn_has_the_loss_header(app: Flask) -> None:
    ws = run_session(app, ScriptedWebSocket(create(no_such=1, access_programs={"a": 1}), create()))

    first, *others = ws.sent
    assert first["type"] == "response.created"
    assert first["headers"] == {"X-Forwarder-Dropped": "access_programs, no_such"}
    assert not [event for event in others if "headers" in event]


# -- turns that continue one another --------------------------------------------------------------


class Turns(ScriptedWebSocket):
    """A fake WebSocket that builds each message from the previous terminal event."""

    def __init__(self, *builders: Callable[[Json], Json]) -> None:
        super().__init__()
        self._builders = iter(builders)
        self._ended: queue.Queue[Json] = queue.Queue()
        self._ended.put({})
        self.ends: list[Json] = []

    def receive(self, timeout: float) -> Any:
        last = self._ended.get(timeout=10)
        make_message = next(self._builders, None)
        if make_message is None:
            raise ConnectionClosed
        return json.dumps(create(**make_message(last)))

    def send(self, data: str) -> None:
        super().send(data)
        event = self.sent[-1]
        if event["type"] in (*TERMINAL_EVENTS, "error"):
            self.ends.append(event)
            self._ended.put(event)


class Images:
    """A media fetcher whose images can disappear; ``requests`` records upstream requests."""

    def __init__(self) -> None:
        self.missing_paths: set[str] = set()
        self.requests: list[Json] = []

    def fetch(self, names: Json) -> dict[str, Blob]:
        missing = self.missing_paths & set(names)
        for url in missing:
            raise MediaUnavailable(f"'{names[url]}' is gone.", param=names[url], names=missing)
        return {url: Blob(b"\x89PNG\r\n\x1a\n", "image/png", None) for url in names}

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            exists = request.url.path not in self.missing_paths
            return httpx2.Response(200 if exists else 404, content=b"\x89PNG\r\n\x1a\n")
        self.requests.append(json.loads(request.content))
        chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
        return make_stream_response(chunk)


@pytest.fixture
def images(serve: Serve) -> tuple[Images, Flask]:
    new_images = Images()
    app = serve(new_images.answer, CHAT_QUIRKS='{"image_url": "base64"}').application
    get_extension(app).services.make_fetch = lambda context: new_images.fetch
    return new_images, app


def make_image_request(url: str, **more: Any) -> Json:
    part = {"type": "input_image", "image_url": url}
    return {"model": "chat/m", "input": [{"role": "user", "content": [part]}], **more}


def make_request_after(event: Json) -> Json:
    return {"model": "chat/m", "previous_response_id": event["response"]["id"]}


@pytest.mark.parametrize("store", [True, False])
def test_error_position_is_that_in_the_client_message(
    store: bool, images: tuple[Images, Flask]
) -> None:
    fetcher, app = images
    fetcher.missing_paths = {"https://x/gone.png"}
    ws = Turns(
        lambda _: make_image_request("https://x/a.png", store=store),
        lambda last: {
            **make_image_request("https://x/gone.png", store=store),
            **make_request_after(last),
        },
    )
    run_session(app, ws)
    assert ws.ends[-1]["error"]["param"] == "input[0].content[0].image_url"


@pytest.mark.parametrize("store", [True, False])
def test_missing_earlier_image_does_not_end_a_conversation(
    store: bool, images: tuple[Images, Flask]
) -> None:
    fetcher, app = images

    def continue_conversation(last: Json) -> Json:
        fetcher.missing_paths = {"https://x/a.png"}
        return {**make_request_after(last), "store": store}

    ws = Turns(
        lambda _: make_image_request("https://x/a.png", store=store),
        continue_conversation,
        continue_conversation,
    )
    run_session(app, ws)
    assert [event["type"] for event in ws.ends] == ["response.completed"] * 3
    for request in fetcher.requests[1:]:
        assert "[image no longer available]" in str(request["messages"][0])


def test_missing_earlier_image_is_reported(images: tuple[Images, Flask]) -> None:
    fetcher, app = images
    client = app.test_client()
    created = client.post("/v1/responses", json=make_image_request("https://x/a.png")).get_json()
    fetcher.missing_paths = {"https://x/a.png"}
    body = {"model": "chat/m", "input": "go on", "previous_response_id": created["id"]}
    got = client.post("/v1/responses", json=body)
    dropped = got.headers["X-Forwarder-Dropped"]
    assert (got.status_code, dropped) == (200, "previous_response_id.input_image")
    got = client.post("/v1/responses", json=body, headers={"X-Forwarder-Strict": "1"})
    param = got.get_json()["error"]["param"]
    assert (got.status_code, param) == (400, "previous_response_id.input_image")


def test_missing_earlier_image_id_does_not_end_a_conversation(images: tuple[Images, Flask]) -> None:
    fetcher, app = images
    client = app.test_client()
    part = {"type": "input_image", "file_id": "file-1"}
    first = {"model": "chat/m", "input": [{"role": "user", "content": [part]}]}
    created = client.post("/v1/responses", json=first).get_json()
    fetcher.missing_paths = {"/v1/files/file-1/content"}
    body = {"model": "chat/m", "input": "go on", "previous_response_id": created["id"]}
    got = client.post("/v1/responses", json=body)
    dropped = got.headers["X-Forwarder-Dropped"]
    assert (got.status_code, dropped) == (200, "previous_response_id.input_image")
    assert "[image no longer available]" in str(fetcher.requests[-1]["messages"][0])
    refused = client.post("/v1/responses", json=first)
    assert refused.get_json()["error"]["param"] == "input[0].content[0].file_id"


def test_prepared_turn_without_its_image_keeps_the_conversation(
    images: tuple[Images, Flask],
) -> None:
    fetcher, app = images
    fetcher.missing_paths = {"https://x/a.png"}
    name = app.test_client().post("/v1/conversations", json={}).get_json()["id"]
    ws = Turns(
        lambda _: make_image_request("https://x/a.png", generate=False, conversation=name),
        lambda last: {**make_request_after(last), "input": "go"},
        lambda _: {"model": "chat/m", "input": "more", "conversation": name},
    )
    run_session(app, ws)
    assert [event["type"] for event in ws.ends] == ["response.completed"] * 3


@pytest.mark.parametrize("between", [{"store": False}, {"generate": False}])
def test_history_is_complete_between_stored_and_unstored_turns(
    between: Json, images: tuple[Images, Flask]
) -> None:
    upstream, app = images

    def make_next(text: str, **more: Any) -> Callable[[Json], Json]:
        return lambda last: {**make_request_after(last), "input": text, **more}

    ws = Turns(
        lambda _: {"model": "chat/m", "input": "one"},
        make_next("two", store=False),
        make_next("three", **between),
        make_next("four"),
        make_next("five"),
    )
    run_session(app, ws)
    assert [event["type"] for event in ws.ends] == ["response.completed"] * 5
    contents = [[m["content"] for m in each["messages"]] for each in upstream.requests]
    last_contents = [m for m in contents[-1] if m != "Hi"]
    assert last_contents == ["one", "two", "three", "four", "five"]
    assert [m for m in contents[-2] if m != "Hi"] == last_contents[:4]
    name = ws.ends[-1]["response"]["id"]
    input_items = app.test_client().get(f"/v1/responses/{name}/input_items?order=asc").get_json()
    texts = [item["content"][0]["text"] for item in input_items["data"]]
    assert [text for text in texts if text != "Hi"] == last_contents


def test_a_prepared_turn_keeps_its_conversation(images: tuple[Images, Flask]) -> None:
    _, app = images
    client = app.test_client()
    name = client.post("/v1/conversations", json={}).get_json()["id"]
    ws = Turns(
        lambda _: {"model": "chat/m", "generate": False, "conversation": name, "input": "rules"},
        lambda last: {**make_request_after(last), "input": "go"},
    )
    run_session(app, ws)
    assert [end["response"]["conversation"] for end in ws.ends] == [{"id": name}] * 2
    items = client.get(f"/v1/conversations/{name}/items?order=asc").get_json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["rules", "go", "Hi"]


def test_a_conversation_and_an_earlier_response_exclude_each_other(
    images: tuple[Images, Flask],
) -> None:
    ws = Turns(
        lambda _: {"model": "chat/m", "store": False},
        lambda last: {**make_request_after(last), "conversation": "conv_1"},
    )
    run_session(images[1], ws)
    assert ws.ends[-1]["error"]["param"] == "previous_response_id"


def test_chat_body_error_names_the_right_path(app: Flask) -> None:
    messages = [{"role": "user", "content": "hi"}]
    ws = run_session(app, ScriptedWebSocket(create(input=None, messages=messages)))

    [error] = ws.sent
    assert (error["status"], error["error"]["param"]) == (400, "input")
    assert "/v1/chat/completions" in error["error"]["message"]


def test_handshake_headers_are_sent_with_every_turn(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    received_headers: list[httpx2.Headers] = []
    send = httpx2.MockTransport.handle_request

    def record_headers(self: Any, sent: httpx2.Request) -> httpx2.Response:
        received_headers.append(sent.headers)
        return send(self, sent)

    monkeypatch.setattr(httpx2.MockTransport, "handle_request", record_headers)
    headers = {
        "X-Title": "App",
        "Idempotency-Key": "one",
        "OpenAI-Beta": "responses_websockets=2026-02-04",
    }
    with app.test_request_context("/v1/responses", headers=headers):
        app.preprocess_request()
        new_session(app, ScriptedWebSocket(create(), create())).run()

    assert len(received_headers) == 2
    for sent in received_headers:
        assert sent["x-title"] == "App"
        assert "idempotency-key" not in sent
        assert "openai-beta" not in sent


def test_messages_that_wait_may_have_as_many_bytes_as_a_body(app: Flask) -> None:
    memory = get_extension(app).services.body_memory
    ws = ScriptedWebSocket(create())
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        connection = new_session(app, ws)
        connection.run()
        ws.connected, ws.code = True, None
        connection = new_session(app, ws)
        ws.incoming_message = bytearray(40 * 2**20)
        connection._enforce_memory_limit()
        assert memory.used == 2 * 40 * 2**20
        ws.input_buffer = ["x" * 30 * 2**20]
        with pytest.raises(OSError, match="FORWARDER_MAX_BODY"):
            connection._enforce_memory_limit()
        assert ws.code == 1009


def test_connection_releases_the_memory_of_messages(app: Flask) -> None:
    memory = get_extension(app).services.body_memory
    run_session(app, ScriptedWebSocket(create(input="x" * 10_000)))
    assert memory.used == 0


def test_memory_limit_closes_a_connection(app: Flask) -> None:
    memory = get_extension(app).services.body_memory
    ws = ScriptedWebSocket()
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        connection = new_session(app, ws)
        BodyReservation(memory).resize(64 * 2**20)
        ws.incoming_message = bytearray(100_000)
        with pytest.raises(OSError, match="FORWARDER_MAX_BODY_MEMORY"):
            connection._enforce_memory_limit()
    assert ws.code == 1013


def test_a_message_in_tiny_frames_closes_the_connection(app: Flask) -> None:
    ws = ScriptedWebSocket()
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        connection = new_session(app, ws)
        for received in (100_000, 100_000):  # pings
            ws.sock.message_bytes += received
            connection._enforce_memory_limit()
        ws.incoming_message = bytearray(40_000)
        ws.sock.message_bytes = 4 * 40_000 + 2**16
        connection._enforce_memory_limit()
        ws.sock.message_bytes += 1
        with pytest.raises(OSError, match="FORWARDER_MAX_CHUNK_OVERHEAD"):
            connection._enforce_memory_limit()
    assert ws.code == 1009


def test_arriving_data_counts_as_the_answer_to_a_ping(app: Flask) -> None:
    ws = run_session(app, ScriptedWebSocket())
    ws.pong_received = False
    ws.sock.before_receiving()

    assert ws.pong_received


def test_continued_history_counts_while_its_turn_runs(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = get_extension(app).services.body_memory
    send = httpx2.MockTransport.handle_request
    used: list[int] = []

    def measure_memory(self: Any, sent: httpx2.Request) -> httpx2.Response:
        used.append(memory.used)
        return send(self, sent)

    monkeypatch.setattr(httpx2.MockTransport, "handle_request", measure_memory)
    ws = ScriptedWebSocket(create(input="x" * 10_000, store=False))
    record_event = ws.send

    def send_and_continue(data: str) -> None:
        record_event(data)
        event = ws.sent[-1]
        if event["type"] == "response.completed" and len(used) == 1:
            previous = event["response"]["id"]
            ws.incoming.put(create(store=False, previous_response_id=previous))

    monkeypatch.setattr(ws, "send", send_and_continue)
    run_session(app, ws)

    assert len(used) == 2
    assert used[1] > 2 * 10_000
    assert memory.used == 0


def test_history_that_is_counted_after_the_client_left_is_released(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = get_extension(app).services.body_memory
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        context = request_hooks.current_context()
        connection = new_session(app, ScriptedWebSocket())
        items = [{"role": "user", "content": "x" * paced_iteration.LARGE_BYTES}]
        entry = HistoryEntry((orjson.dumps(items),), paced_iteration.LARGE_BYTES, False)
        monkeypatch.setattr(connection._history, "find_previous", lambda *_: entry)
        monkeypatch.setattr(
            paced_iteration, "_pause", context.cancel
        )  # the reader thread runs meanwhile
        connection._begin_turn(create(previous_response_id="r"), context)
        context.close()
    assert memory.used == 0


def test_message_that_has_arrived_is_answered_without_free_memory(app: Flask) -> None:
    memory = get_extension(app).services.body_memory
    other_bodies = BodyReservation(memory)
    ws = ScriptedWebSocket(create(), create(input="x" * 100_000))
    other_bodies.hold(memory.max_bytes)
    run_session(app, ws)
    other_bodies.close()

    assert [event["type"] for event in ws.sent].count("response.completed") == 2
    assert memory.used == 0


def test_history_counts_in_the_memory_of_the_worker(app: Flask) -> None:
    memory = get_extension(app).services.body_memory
    first = create(input="x" * 10_000, store=False)
    kept_bytes: list[int] = []

    def shorten_idle_limit() -> None:
        settings = replace(connection._services.settings, websocket_idle=0.05)
        connection._services = replace(connection._services, settings=settings)

    ws = ScriptedWebSocket(first, IDLE, shorten_idle_limit, {"type": "response.processed"}, STAY)
    ws.close = lambda *_: kept_bytes.append(memory.kept)  # type: ignore[method-assign]
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        connection = new_session(app, ws)
        connection.run()
    assert kept_bytes[0] > 10_000
    assert memory.kept == 0


def test_continued_items_count_towards_the_limit(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = get_extension(app).services
    settings = replace(services.settings, max_json_values=1000)
    monkeypatch.setattr(services, "settings", settings)
    items = [{"role": "user", "content": []} for _ in range(600)]
    first = create(input=items, store=False)
    ws = ScriptedWebSocket(first)
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        connection = new_session(app, ws)
        link = HistoryEntry((orjson.dumps([0] * 900),), 900, False)
        monkeypatch.setattr(connection._history, "find_previous", lambda *_: link)
        with pytest.raises(TooLarge, match="FORWARDER_MAX_JSON_VALUES"):
            connection._begin_turn(
                create(previous_response_id="r", input=items), request_hooks.current_context()
            )
