"""The SDK's HTTP client builds and sends the same requests as httpx2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from forwarder.upstream.transport.sdk_http_client import SdkHttpClient
from tests.helpers.check_cases import check_each

TIMEOUT = httpx2.Timeout(60, connect=5)
URL = "http://upstream.test/v1/chat/completions"
HEADERS = [("Content-Type", "application/json"), ("Authorization", "Bearer key")]


class _RecordingTransport(httpx2.BaseTransport):
    """Records its requests and answers them."""

    def __init__(self, status: int = 200, body: httpx2.SyncByteStream | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._status = status
        self._body = body

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        headers = {"Location": "http://elsewhere.test/", "Set-Cookie": "a=b"}
        if self._body is not None:
            return httpx2.Response(self._status, headers=headers, stream=self._body)
        return httpx2.Response(self._status, headers=headers, content=b"{}")


class _BrokenStream(httpx2.SyncByteStream):
    closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"{"
        raise httpx2.ReadError("cut")

    def close(self) -> None:
        self.closed = True


def _build_request(client: httpx2.Client, **options: Any) -> httpx2.Request:
    return client.build_request("POST", URL, headers=HEADERS, timeout=TIMEOUT, **options)


def _describe_request(request: httpx2.Request) -> Any:
    accepted = ("accept", "accept-encoding", "connection", "user-agent")  # set by the SDK
    headers = sorted((k, v) for k, v in request.headers.multi_items() if k not in accepted)
    return request.method, str(request.url), headers, request.read(), request.extensions


@check_each(
    "options",
    [
        {"content": b'{"model":"m"}'},
        {"content": b'{"model":"m"}', "params": {"api-version": "1"}},
        {"data": {"purpose": "user_data"}},
        {"content": None},
    ],
    ids=["bytes", "query", "form", "nothing"],
)
def test_a_request_equals_that_of_httpx2(options: Any) -> None:
    sdk_client = SdkHttpClient(_RecordingTransport(), TIMEOUT)

    request = _build_request(sdk_client, **options)

    assert _describe_request(request) == _describe_request(
        _build_request(httpx2.Client(timeout=TIMEOUT), **options)
    )


def test_host_header_of_the_operator_is_sent() -> None:
    headers = [*HEADERS, ("host", "elsewhere.test")]
    built = [
        client.build_request("POST", URL, headers=headers, content=b"{}", timeout=TIMEOUT)
        for client in (
            SdkHttpClient(_RecordingTransport(), TIMEOUT),
            httpx2.Client(timeout=TIMEOUT),
        )
    ]

    assert _describe_request(built[0]) == _describe_request(built[1])
    assert built[0].headers.get_list("host") == ["elsewhere.test"]


def test_streamed_body_is_not_read() -> None:
    body = _BrokenStream()
    client = SdkHttpClient(_RecordingTransport(body=body), TIMEOUT)

    response = client.send(_build_request(client, content=b"{}"), stream=True)

    assert not body.closed
    response.close()
    assert body.closed


def test_a_body_that_breaks_is_closed() -> None:
    body = _BrokenStream()
    client = SdkHttpClient(_RecordingTransport(body=body), TIMEOUT)

    with pytest.raises(httpx2.ReadError):
        client.send(_build_request(client, content=b"{}"))

    assert body.closed


def test_an_answer_that_is_not_streamed_is_read() -> None:
    client = SdkHttpClient(_RecordingTransport(), TIMEOUT)

    assert client.send(_build_request(client, content=b"{}")).content == b"{}"


def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    transport = _RecordingTransport(status=307)
    client = SdkHttpClient(transport, TIMEOUT)

    responses = [client.send(_build_request(client, content=b"{}")) for _ in range(2)]

    assert [response.status_code for response in responses] == [307, 307]
    assert len(transport.requests) == 2
    assert "cookie" not in transport.requests[1].headers
