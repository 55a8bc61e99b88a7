"""Streams are opened by the SDK's own methods, and its typed layer changes no body and no event."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import httpx2
import openai
import orjson
import pytest
from openai._base_client import BaseClient
from openai.resources.chat import Completions
from openai.resources.responses import Responses

from forwarder.upstream.sdk_client import EncodedRequest, SdkClient
from forwarder.upstream.transport.sdk_http_client import SdkHttpClient

HEADERS = {"Authorization": "Bearer key", "X-Title": "A", "X-Stainless-Read-Timeout": openai.Omit()}
TIMEOUT = httpx2.Timeout(7, connect=3)
FRAMES = b'data: {"type":"vendor.event","n":1}\n\ndata: [DONE]\n\n'
BODY = {
    "vendor": {"nested": [1, 2.50, None]},
    "messages": [{"role": "user", "content": "h\u00e9 \u2028", "model": 1}],
    "model": "their-model",
    "stream": True,
    "input": [{"type": "vendor_item"}],
    "temperature": None,
}

protocols = pytest.mark.parametrize("protocol", ["chat", "responses"])


class Transport(httpx2.BaseTransport):
    """Records each request and gives all of them the same answer."""

    def __init__(self, status: int = 200, data: bytes = FRAMES) -> None:
        self.requests: list[httpx2.Request] = []
        self._status, self._data = status, data

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(self._status, stream=httpx2.ByteStream(self._data))


def make_client(transport: Transport) -> SdkClient:
    return SdkClient(
        {"Accept-Encoding": "identity"},
        api_key="none",
        base_url="http://up.test/v1",
        max_retries=0,
        http_client=SdkHttpClient(transport, TIMEOUT),
    )


def open_stream(transport: Transport, protocol: str, body: Any = BODY) -> httpx2.Response:
    request = EncodedRequest("http://up.test/own/path", orjson.dumps(body), "req_1")
    return make_client(transport).open_stream(protocol, request, HEADERS, TIMEOUT)


@protocols
def test_a_stream_is_opened_by_the_method_of_its_protocol(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    create, stream = Completions.create, Responses.stream
    monkeypatch.setattr(
        Completions, "create",
        lambda self, **arguments: calls.append(("chat", arguments["stream"])) or create(self, **arguments),
    )  # fmt: skip
    monkeypatch.setattr(
        Responses, "stream",
        lambda self, **arguments: calls.append(("responses", True)) or stream(self, **arguments),
    )  # fmt: skip

    open_stream(Transport(), protocol)

    assert calls == [(protocol, True)]


@protocols
def test_the_body_is_sent_byte_for_byte_to_the_whole_url(protocol: str) -> None:
    transport = Transport()

    open_stream(transport, protocol)

    [request] = transport.requests
    assert request.method == "POST"
    assert str(request.url) == "http://up.test/own/path"
    assert request.read() == orjson.dumps(BODY)


@protocols
def test_a_stream_is_requested_with_the_same_headers_and_time_outs_as_a_whole_answer(
    protocol: str,
) -> None:
    transport = Transport()
    open_stream(transport, protocol)
    request = EncodedRequest("http://up.test/own/path", orjson.dumps(BODY), "req_1")
    make_client(transport).send_unread(request, HEADERS, TIMEOUT)

    streamed, whole = transport.requests

    assert streamed.headers.raw == whole.headers.raw
    assert streamed.headers["authorization"] == "Bearer key"
    assert streamed.extensions == whole.extensions
    assert streamed.extensions["timeout"]["connect"] == 3


@protocols
def test_the_typed_layer_builds_no_event(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the SDK decoded an event")

    monkeypatch.setattr(BaseClient, "_process_response_data", fail)
    monkeypatch.setattr(SdkClient, "_make_sse_decoder", fail)

    response = open_stream(Transport(), protocol)

    assert not response.is_closed
    assert not response.is_stream_consumed
    assert b"".join(response.iter_bytes()) == FRAMES


@protocols
def test_a_refusal_raises_the_sdk_s_error(protocol: str) -> None:
    transport = Transport(429, b'{"error":{"message":"slow down"}}')

    with pytest.raises(openai.RateLimitError, match="slow down"):
        open_stream(transport, protocol)

    assert len(transport.requests) == 1


@protocols
def test_a_request_is_freed_as_soon_as_its_response_is_dropped(protocol: str) -> None:
    transport = Transport()
    response = open_stream(transport, protocol)
    request = weakref.ref(transport.requests.pop())
    gc.disable()
    try:
        response.close()
        del response

        assert request() is None
    finally:
        gc.enable()


def test_the_stream_of_an_existing_response_is_reopened_by_the_sdk_s_stream_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids: list[str] = []
    stream = Responses.stream
    monkeypatch.setattr(
        Responses, "stream",
        lambda self, **arguments: ids.append(arguments["response_id"]) or stream(self, **arguments),
    )  # fmt: skip
    transport = Transport()
    request = EncodedRequest("http://up.test/own/path/r%2F1", None, "req_1")

    response = make_client(transport).reopen_stream("r/1", request, HEADERS, TIMEOUT)

    [sent] = transport.requests
    assert ids == ["r/1"]
    assert (sent.method, str(sent.url)) == ("GET", "http://up.test/own/path/r%2F1?stream=true")
    assert sent.read() == b""
    assert b"".join(response.iter_bytes()) == FRAMES
