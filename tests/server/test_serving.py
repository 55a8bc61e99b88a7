"""Answers of all routes: bodies, streams, statuses."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

Json = dict[str, Any]

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    "/v1/responses": {"model": "m", "input": "Hello"},
}

every_route = pytest.mark.parametrize("path", BODIES)


def make_chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}


@every_route
def test_answer_is_not_streamed_by_default(path: str, demo: FlaskClient) -> None:
    for stream in ({}, {"stream": False}, {"stream": None}):
        got = demo.post(path, json={**BODIES[path], **stream})
        assert got.mimetype == "application/json"
        assert "Hello" in got.text


@every_route
def test_stream_is_neither_cached_nor_buffered(path: str, demo: FlaskClient) -> None:
    got = demo.post(path, json={**BODIES[path], "stream": True})

    assert got.mimetype == "text/event-stream"
    assert got.headers["Cache-Control"] == "no-cache"
    assert got.headers["X-Accel-Buffering"] == "no"


def test_head_of_a_stream_has_no_body_and_ends_at_once(demo: FlaskClient) -> None:
    made = demo.post("/v1/responses", json=BODIES["/v1/responses"]).get_json()
    got = demo.head(f"/v1/responses/{made['id']}?stream=true")

    assert (got.status_code, got.mimetype, got.data) == (200, "text/event-stream", b"")
    got.close()  # as the WSGI server does after the body
    services = get_extension(demo.application).services
    assert len(services.running) == services.resilience.concurrency_limit.in_use == 0


def test_only_chat_streams_end_with_done(demo: FlaskClient) -> None:
    texts = [demo.post(path, json={**body, "stream": True}).text for path, body in BODIES.items()]

    assert [text.endswith("data: [DONE]\n\n") for text in texts] == [True, False]


@every_route
@check_each("data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_a_body_has_to_be_a_json_object(path: str, data: bytes, demo: FlaskClient) -> None:
    got = demo.post(path, data=data)

    assert got.status_code == 400
    assert got.get_json()["error"]["code"] == "invalid_json"
    assert got.headers["X-Request-Id"]


@every_route
def test_stream_has_to_be_a_boolean(path: str, demo: FlaskClient) -> None:
    got = demo.post(path, json={**BODIES[path], "stream": "yes"})

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "stream")


@every_route
def test_unauthorized_request_has_an_id_and_a_log_line(
    path: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_API_KEYS="k")

    got = client.post(path, json=BODIES[path], headers={"X-Request-Id": "mine"})

    assert (got.status_code, got.headers["X-Request-Id"]) == (401, "mine")
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["id"], last["status"], last["error"]) == ("mine", 401, "invalid_api_key")


@every_route
def test_too_large_body_is_a_413(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_MAX_BODY="100")

    got = client.post(path, data=b"x" * 101)

    assert (got.status_code, got.get_json()["error"]["code"]) == (413, "request_too_large")


def test_a_failure_before_the_first_event_is_a_status(serve: Serve) -> None:
    client = serve(lambda _: make_stream_response({"error": {"message": "full", "code": 429}}))

    for path, body in BODIES.items():
        got = client.post(path, json={**body, "model": "chat/m", "stream": True})
        if path == "/v1/responses":
            assert got.status_code == 429
            assert got.get_json()["error"]["message"] == "full"


def test_failure_after_the_first_event_is_the_last_event(serve: Serve) -> None:
    client = serve(
        lambda _: make_stream_response(make_chunk("Hi"), {"error": {"message": "full"}}, done=False)
    )

    got = client.post("/v1/chat/completions", json=asking_chat())

    frames = got.text.strip().split("\n\n")
    assert got.status_code == 200
    assert json.loads(frames[-1].removeprefix("data: ")) == {"error": {"message": "full"}}
    assert len(frames) == 2


def asking_chat() -> dict[str, Any]:
    return {**BODIES["/v1/chat/completions"], "model": "chat/m", "stream": True}


def test_null_error_is_not_a_failure(serve: Serve) -> None:
    client = serve(lambda _: make_stream_response(make_chunk("Hi", "stop", error=None)))

    assert client.post("/v1/chat/completions", json=asking_chat()).text.endswith("[DONE]\n\n")


def test_the_route_closes_the_upstream_s_answer(serve: Serve) -> None:
    closed: list[bool] = []
    go = threading.Event()

    class Body(httpx2.SyncByteStream):
        def __iter__(self) -> Any:
            yield f"data: {json.dumps(make_chunk('Hi'))}\n\n".encode()
            go.wait(5)

        def close(self) -> None:
            closed.append(True)

    client = serve(lambda _: httpx2.Response(200, stream=Body()))
    got = client.post("/v1/chat/completions", json=asking_chat(), buffered=False)
    next(iter(got.response))
    assert closed == []
    got.close()
    go.set()

    assert closed


def test_a_chat_request_may_stream_by_default(serve: Serve) -> None:
    client = serve(
        lambda _: make_stream_response(make_chunk("Hi", "stop")),
        FORWARDER_CHAT_DEFAULT_STREAM="true",
    )
    body = asking_chat()
    del body["stream"]

    assert client.post("/chat/completions", json=body).mimetype == "text/event-stream"
