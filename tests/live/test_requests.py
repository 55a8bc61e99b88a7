"""Requests as clients on the network send them: compressed, chunked, from pages, to odd paths."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Iterator

import brotli
import httpx2
import pytest

from forwarder.server.content_encoding import zstd
from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.scenarios import HELLO
from tests.live.conftest import make_settings
from tests.live.server import FLASK, GUNICORN, Server, run_forwarder

PAGE = "https://chat.example"
CODINGS = {
    "zstd": zstd.compress,
    "br": brotli.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}
BODY = json.dumps({"model": "chat/m", "input": "hi", "store": False}).encode()


@pytest.fixture(scope="module", params=[GUNICORN, FLASK], ids=["gunicorn", "flask"])
def server(
    request: pytest.FixtureRequest,
    upstream: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    environment = make_settings(
        upstream, FORWARDER_CORS_ORIGINS=PAGE, FORWARDER_MAX_BODY="1m", FORWARDER_API_KEYS="k"
    )
    with run_forwarder(environment, tmp_path_factory.mktemp("requests"), request.param) as started:
        yield started


def send_request(
    server: Server, data: bytes | Iterator[bytes], path: str = "/v1/responses", **headers: str
) -> httpx2.Response:
    named_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(
        f"{server.url}{path}", content=data, headers={"X-Api-Key": "k", **named_headers}, timeout=30
    )


def in_chunks(data: bytes, size: int = 7) -> Iterator[bytes]:
    """The data as httpx sends it without a Content-Length."""
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_body_is_read_whole_or_in_chunks(coding: str, server: Server) -> None:
    data = CODINGS[coding](BODY)
    for sent in (data, in_chunks(data)):
        response = send_request(server, sent, Content_Encoding=coding)
        assert response.status_code == 200, response.text
        assert HELLO in response.text


@pytest.mark.parametrize("coding", CODINGS)
def test_a_decompression_bomb_is_refused(coding: str, server: Server) -> None:
    bomb = CODINGS[coding](bytes(2**26))
    answers: list[int] = []
    request_threads = [
        threading.Thread(
            target=lambda: answers.append(
                send_request(server, bomb, Content_Encoding=coding).status_code
            )
        )
        for _ in range(5)
    ]
    for thread in request_threads:
        thread.start()
    assert send_request(server, BODY).status_code == 200
    for thread in request_threads:
        thread.join(30)
    assert answers == [413] * 5


@pytest.mark.parametrize("size", [2**20, 2**20 + 1])
def test_a_chunked_body_has_the_same_limit(size: int, server: Server) -> None:
    data = BODY + b" " * (size - len(BODY))
    assert send_request(server, in_chunks(data, 2**16)).status_code == (
        200 if size == 2**20 else 413
    )


@pytest.mark.parametrize(
    "path", ["/v1/responses/", "//v1/responses", "/v1/v1/responses", "/openai/v1//responses"]
)
def test_odd_paths_lead_to_the_same_route(path: str, server: Server) -> None:
    response = send_request(server, BODY, path)
    assert (response.status_code, HELLO in response.text) == (200, True)


def test_allowed_web_page_can_request_and_read_a_stream(server: Server) -> None:
    preflight = httpx2.options(
        f"{server.v1}/responses",
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Headers"] == "x-api-key"
    assert preflight.headers["Access-Control-Allow-Private-Network"] == "true"

    streamed = json.dumps({**json.loads(BODY), "stream": True}).encode()
    for data, status in ((streamed, 200), (b"{", 400)):
        response = send_request(server, data, Origin=PAGE)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"]
    assert (
        "Access-Control-Allow-Origin"
        not in send_request(server, BODY, Origin="https://x.example").headers
    )
