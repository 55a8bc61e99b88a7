"""Requests of the operator's pages to the application itself."""

from __future__ import annotations

from typing import Any

from flask import Flask, Request
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from forwarder.context.capture_recorder import Recorder, RequestHead
from forwarder.context.request_context import RequestContext
from forwarder.server.operator_call import OperatorCall
from tests.server.conftest import Serve, make_stream_response

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}],
}
BODY = b'{"model": "chat/m", "input": "hi"}'


def make_recorder(context: RequestContext, head: RequestHead) -> Recorder:
    return Recorder(head, 1000, context.started_at)


def send(app: Flask, call: OperatorCall, body: bytes = BODY, **origin: Any) -> tuple[str, bytes]:
    """Send a marked request; return the status and the body of its answer."""
    request = Request(EnvironBuilder(**origin).get_environ())
    environ = call.make_environ(request, "/v1/responses?a=b", body, {"X-Request-Id": "own"})
    head: list[str] = []
    chunks = app.wsgi_app(environ, lambda status, headers, *_: head.append(status))
    data = b"".join(chunks)
    chunks.close()  # type: ignore[attr-defined]
    return head[0], data


def serve_keys(serve: Serve, **more: str) -> FlaskClient:
    return serve(
        lambda request: make_stream_response(CHUNK),
        FORWARDER_API_KEYS="sk-client",
        FORWARDER_CAPTURE="memory",
        **more,
    )


def test_an_internal_call_needs_no_client_key_and_is_captured(serve: Serve) -> None:
    client = serve_keys(serve)
    status, data = send(client.application, OperatorCall(None, make_recorder))

    assert status == "200 OK"
    assert b'"response"' in data
    (listed,) = client.get("/forwarder/exchanges").json["data"]
    assert listed["request_id"] == "own"


def test_clients_cannot_mark_requests_as_internal(serve: Serve) -> None:
    client = serve_keys(serve)
    for name in ("forwarder.operator_call", "Forwarder.Internal-Call", "Forwarder-Internal-Call"):
        answer = client.post("/v1/responses", data=BODY, headers={name: "1"})
        assert answer.status_code == 401


def test_an_internal_call_has_the_address_and_the_host_of_its_origin(serve: Serve) -> None:
    requests: list[Request] = []
    client = serve_keys(serve)

    @client.application.before_request
    def record_request() -> None:
        from flask import request

        requests.append(request._get_current_object())  # type: ignore[attr-defined]

    origin = {"base_url": "http://127.0.0.1:8000", "environ_base": {"REMOTE_ADDR": "127.0.0.9"}}
    send(client.application, OperatorCall(None, make_recorder), **origin)

    assert (requests[0].remote_addr, requests[0].host) == ("127.0.0.9", "127.0.0.1:8000")
    assert dict(requests[0].args) == {"a": "b"}
    assert requests[0].headers["X-Request-Id"] == "own"


def test_the_client_key_goes_to_upstreams_that_need_it(serve: Serve) -> None:
    keys: list[str] = []

    def answer(request: Any) -> Any:
        keys.append(request.headers["authorization"])
        return make_stream_response(CHUNK)

    client = serve(answer, CHAT_API_KEY="passthrough", FORWARDER_API_KEYS="")
    send(client.application, OperatorCall("sk-own", make_recorder))

    assert keys == ["Bearer sk-own"]
