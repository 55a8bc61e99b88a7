"""Requests whose client and upstream side are observed while they run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gevent
import httpx2
import pytest
from flask import Request
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from forwarder.console import observed_call
from forwarder.console.observed_call import CallRequest, ObservedCall
from forwarder.context.redaction import Redactor
from tests.server.conftest import Serve, make_stream_response

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def make_chunk(text: str | None = None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    finish = "stop" if text is None else None
    return {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def make_call(client: FlaskClient, on_bytes: Any = len, **body: Any) -> ObservedCall:
    data = json.dumps({"model": "chat/m", "input": "hi", **body}).encode()
    return ObservedCall(
        client.application.wsgi_app,
        Request(EnvironBuilder(environ_base={"REMOTE_ADDR": "127.0.0.1"}).get_environ()),
        CallRequest("responses", "/v1/responses", data, {}),
        Redactor((), ["sk-upstream"]),
        2**20,
        on_bytes,
    )


def run(call: ObservedCall) -> list[dict[str, Any]]:
    return [json.loads(event) for batch in call.stream_events(5) for event in batch]


def list_kinds(events: list[dict[str, Any]], side: str) -> list[str]:
    return [event["kind"] for event in events if event["side"] == side]


def test_events_of_both_sides_are_in_order(serve: Serve) -> None:
    client = serve(lambda _: make_stream_response(make_chunk("h"), make_chunk("i"), make_chunk()))
    received: list[bytes] = []
    call = make_call(client, received.append, stream=True, logit_bias={"1": 1})

    events = run(call)

    assert list_kinds(events, "upstream")[:3] == ["request", "head", "event"]
    assert list_kinds(events, "client")[:2] == ["head", "event"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    texts = {
        side: [
            part["text"]
            for event in events
            if event["side"] == side
            for part in event.get("parts", ())
            if part["kind"] == "text"
        ]
        for side in ("client", "upstream")
    }
    assert texts == {"client": ["h", "i"], "upstream": ["h", "i"]}
    end = events[-1]
    assert (end["side"], end["kind"], end["upstream"], end["error"]) == (
        *("call", "end", "chat"),
        None,
    )
    assert call.status == 200
    assert b"response.completed" in b"".join(received)


def test_whole_answers_are_one_event_on_each_side(serve: Serve) -> None:
    completion = {**CHUNK, "object": "chat.completion"}
    completion["choices"] = [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]
    client = serve(lambda _: httpx2.Response(200, json=completion))

    events = run(make_call(client))

    assert list_kinds(events, "upstream") == ["request", "head", "event"]
    assert list_kinds(events, "client") == ["head", "event"]
    assert events[-2]["data"]["object"] == "response"


def test_an_error_of_the_upstream_is_shown_on_both_sides_without_keys(serve: Serve) -> None:
    refusal = {"error": {"message": "no sk-upstream", "code": "bad"}}
    client = serve(lambda _: httpx2.Response(400, json=refusal))

    events = run(make_call(client))

    text = json.dumps(events)
    assert "sk-upstream" not in text
    assert [event["status"] for event in events if event["kind"] == "head"] == [400, 400]
    assert {event["side"] for event in events if event["kind"] == "event"} == {
        "upstream",
        "client",
    }


@pytest.mark.usefixtures("_short_backoff")
def test_every_attempt_is_shown(serve: Serve) -> None:
    answers = iter(
        [httpx2.Response(500, json={}), make_stream_response(make_chunk("hi"), make_chunk())]
    )
    client = serve(lambda _: next(answers), CHAT_MAX_RETRIES="1")

    events = [event for event in run(make_call(client)) if event["side"] == "upstream"]

    assert [(e["attempt"], e["kind"]) for e in events][:4] == [
        (1, "request"), (1, "head"), (1, "event"), (2, "request"),
    ]  # fmt: skip
    assert [event["status"] for event in events if event["kind"] == "head"] == [500, 200]


def test_an_upstream_that_cannot_be_reached_is_shown(serve: Serve) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("cut")

    events = run(make_call(serve(answer, CHAT_MAX_RETRIES="0")))

    assert list_kinds(events, "upstream") == ["request", "error"]
    assert events[-1]["error"] == "upstream_unreachable"


def test_a_stream_that_breaks_ends_with_an_error(serve: Serve) -> None:
    def pieces() -> Iterator[bytes]:
        yield f"data: {json.dumps(make_chunk('h'))}\n\n".encode()
        raise httpx2.ReadError("cut")

    client = serve(lambda _: httpx2.Response(200, content=pieces()))

    events = run(make_call(client, stream=True))

    assert [e["message"] for e in events if (e["side"], e["kind"]) == ("upstream", "error")]
    assert events[-1]["error"] == "upstream_disconnected"


def test_a_reader_that_stops_cancels_the_request(serve: Serve) -> None:
    is_closed: list[bool] = []

    class Endless(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while not is_closed:
                yield f"data: {json.dumps(make_chunk('h'))}\n\n".encode()

        def close(self) -> None:
            is_closed.append(True)

    client = serve(
        lambda _: httpx2.Response(200, stream=Endless(), headers={"content-type": "text/event-stream"}),
        FORWARDER_CAPTURE="memory",
    )  # fmt: skip
    with closing(make_call(client, stream=True).stream_events(5)) as batches:  # type: ignore[type-var]
        for _ in zip(range(5), batches, strict=False):
            pass

    assert is_closed == [True]
    (listed,) = client.get("/forwarder/exchanges").json["data"]
    assert listed["error"] == "client_left"


def test_slow_reader_causes_backpressure(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_call, "MAX_WAITING_BYTES", 20_000)
    sent: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(2000):
            sent.append(number)
            yield f"data: {json.dumps(make_chunk('text ' * 400))}\n\n".encode()

    client = serve(lambda _: httpx2.Response(200, content=pieces()))
    with closing(make_call(client, stream=True).stream_events(5)) as batches:  # type: ignore[type-var]
        while len(sent) < 10:
            next(batches)
        early = len(sent)
        assert all(sum(map(len, batch)) < 60_000 for batch in batches)

    assert early < 500
    assert len(sent) == 2000


def make_plain_call(app: Any) -> ObservedCall:
    origin = Request(EnvironBuilder().get_environ())
    request = CallRequest("chat", "/v1/chat/completions", b"{}", {})
    return ObservedCall(app, origin, request, Redactor(()), 1000)


def test_silence_is_reported() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        gevent.sleep(0.2)
        start_response("200 OK", [])
        return [b"{}"]

    batches = list(make_plain_call(app).stream_events(0.05))

    assert batches[0] == []
    assert batches[-1]


def test_data_of_large_events_is_omitted(serve: Serve) -> None:
    entry = {"id": "x" * 100, "text": "word " * 10}
    large = {**make_chunk("hi"), "extra": [entry] * 3000}
    client = serve(lambda _: make_stream_response(large, make_chunk()))

    events = run(make_call(client, stream=True))

    (large_event,) = [
        e for e in events if e["side"] == "upstream" and "bytes left out" in e.get("text", "")
    ]
    assert "data" not in large_event
    assert max(len(json.dumps(event)) for event in events) < 300_000


def test_an_application_that_fails_is_an_error() -> None:
    def raise_error(environ: Any, start_response: Any) -> Any:
        raise RuntimeError("broken")

    started = time.monotonic()

    events = run(make_plain_call(raise_error))

    assert [event["kind"] for event in events] == ["error", "end"]
    assert "broken" in events[0]["message"]
    assert time.monotonic() - started < 4


def test_events_of_another_thread_do_not_wait_for_the_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observed_call, "MAX_WAITING_BYTES", 10)
    call = make_plain_call(lambda environ, start_response: [])
    thread = threading.Thread(target=lambda: (call.report("call", "x"), call.let_reader_run()))
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
    assert run(call)[0]["kind"] == "x"
