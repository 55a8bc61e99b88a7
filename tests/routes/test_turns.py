"""Turns of a connection over a WebSocket that a test plays."""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

import httpx2
import pytest
from flask import Flask
from simple_websocket import ConnectionClosed

from forwarder import bridge
from forwarder.app import create_app
from forwarder.config import Settings
from forwarder.routes import exchanges
from forwarder.routes.turns import WAITING, Connection
from tests.routes.conftest import streamed

Json = dict[str, Any]


class Played:
    """A WebSocket: what the client sends, what it gets, and the code that closes it."""

    def __init__(self, *messages: Any) -> None:
        self._incoming: queue.Queue[Any] = queue.Queue()
        for message in messages:
            self._incoming.put(message)
        self.connected = True
        self.sent: list[Json] = []
        self.code: int | None = None
        self.broken = False

    def receive(self, timeout: float) -> Any:
        try:
            got = self._incoming.get(timeout=0.3)
        except queue.Empty:
            self.connected = False
            raise ConnectionClosed from None
        if isinstance(got, float):
            time.sleep(got)
            return self.receive(timeout)
        return got if isinstance(got, str | bytes) else json.dumps(got)

    def send(self, data: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.sent.append(json.loads(data))

    def close(self, code: int, reason: str) -> None:
        self.code = code
        assert reason
        self.connected = False


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The forwarder over a chat upstream that says hi."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    transport = httpx2.MockTransport(lambda _: streamed(chunk))
    monkeypatch.setattr(bridge, "transport_for", lambda settings, heartbeat: transport)
    return create_app(
        Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1", "FORWARDER_WEBSOCKET_IDLE": "5"})
    )


def played(app: Flask, ws: Played) -> Played:
    with app.test_request_context("/v1/responses"):
        app.preprocess_request()
        Connection(ws, app.extensions["forwarder"]).serve()
    return ws


def create(**more: Any) -> Json:
    return {"type": "response.create", "model": "m", "input": "hi", **more}


def kinds(ws: Played) -> list[str]:
    return [event["type"] for event in ws.sent]


@pytest.mark.parametrize("form", [json.dumps, lambda body: json.dumps(body).encode()])
def test_a_message_may_be_text_or_bytes(form: Any, app: Flask) -> None:
    ws = played(app, Played(form(create()), 0.5))

    assert kinds(ws)[0] == "response.created"
    assert kinds(ws)[-1] == "response.completed"


def test_what_codex_only_tells_is_not_answered(app: Flask) -> None:
    assert played(app, Played({"type": "response.processed"}, 0.2)).sent == []


def test_the_process_s_end_closes_a_connection_at_once(app: Flask) -> None:
    ws = Played(2.0)
    running = app.extensions["forwarder"].running
    threading.Timer(0.3, running.announce).start()

    played(app, ws)

    assert ws.code == 1001


def test_more_messages_than_may_wait_close_it(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "admit", lambda exchange: time.sleep(1))

    ws = played(app, Played(*[create()] * (WAITING + 2)))

    assert ws.code == 1008


def test_a_client_that_cannot_be_written_to_is_gone(app: Flask) -> None:
    ws = Played(create(), 0.5)
    ws.broken = True

    played(app, ws)

    assert ws.sent == []


def test_a_mistake_here_closes_the_connection_and_is_logged(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ws = Played(create(), 0.5)
    monkeypatch.setattr(ws, "send", lambda data: int("ours"))

    assert played(app, ws).code == 1011
    assert "ours" in caplog.text


def test_who_asks_in_a_lane_is_answered_in_it(app: Flask) -> None:
    ws = played(
        app,
        Played(
            create(stream_id="a"),
            create(stream_id="b.2", input=[{"type": "no"}]),
            create(),
            {"type": "response.steer", "stream_id": "a", "input": "more"},
            0.6,
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
def test_a_lane_that_cannot_be_is_refused(name: Any, app: Flask) -> None:
    (event,) = played(app, Played(create(stream_id=name), 0.3)).sent

    assert (event["type"], event["status"]) == ("error", 400)
    assert (event["error"]["code"], event["error"]["param"]) == ("invalid_stream_id", "stream_id")
    assert "stream_id" not in event


def test_the_first_event_of_a_turn_names_what_is_lost(app: Flask) -> None:
    ws = played(app, Played(create(no_such=1, access_programs={"a": 1}), create(), 0.5))

    first, *others = ws.sent
    assert first["type"] == "response.created"
    assert first["headers"] == {"X-Forwarder-Dropped": "access_programs, no_such"}
    assert not [event for event in others if "headers" in event]
