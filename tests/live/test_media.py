"""Images and files over real HTTP: fetched, uploaded and passed through by a running forwarder."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.helpers.loopback import Peer, encode_chunk, run_server
from tests.helpers.loopback import Server as Loopback
from tests.live.conftest import Serve
from tests.live.server import Server
from tests.live.talk import PATHS, http

PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
PNG_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PDF_URL = f"data:application/pdf;base64,{base64.b64encode(b'%PDF-1.7').decode()}"
PIECE = bytes(100_000)
KEY = "sk-client"
OPEN = {"Authorization": f"Bearer {KEY}"}
AGE = 0.5
"""Seconds that uploaded files live in these tests."""

Json = dict[str, Any]


def serve_provider(peer: Peer) -> None:
    """Speaks Chat, and keeps files."""
    while request := peer.request():
        line = request.split(b"\r\n")[0]
        if line.startswith(b"POST /v1/chat/completions"):
            peer.answer(*make_answer(streamed=b'"stream":true' in request))
        elif b"/files/file-png/content" in line:
            peer.answer(PNG, b"Content-Type: image/png")
        elif b"/content" in line:
            peer.start_chunked()
            peer.send(encode_chunk(PIECE))
            peer.server.wait()
            peer.send(encode_chunk(PIECE), encode_chunk(b""))
        else:
            peer.answer(b'{"id": "file-9", "object": "file"}', b"Content-Type: application/json")


def make_answer(streamed: bool) -> tuple[bytes, bytes]:
    """The body and the content type of an answer."""
    grows = "delta" if streamed else "message"
    choice = {"index": 0, grows: {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    answer = json.dumps({"choices": [choice]})
    if streamed:
        return f"data: {answer}\n\ndata: [DONE]\n\n".encode(), b"Content-Type: text/event-stream"
    return answer.encode(), b"Content-Type: application/json"


def serve_images(peer: Peer) -> None:
    """A host of images, some of which are elsewhere."""
    if b"GET /private" in peer.request():
        peer.send(b"HTTP/1.1 302 Found\r\nLocation: http://[::1]/\r\nContent-Length: 0\r\n\r\n")
    else:
        peer.answer(PNG, b"Content-Type: image/png")


@pytest.fixture(scope="module")
def provider() -> Iterator[Loopback]:
    with run_server(serve_provider) as server:
        yield server


@pytest.fixture
def images() -> Iterator[Loopback]:
    with run_server(serve_images) as server:
        yield server


@pytest.fixture(scope="module")
def forwarder(serve: Serve, provider: Loopback) -> Server:
    """``fetching`` and ``uploading`` are the same provider, seen in two ways."""
    base = f"http://127.0.0.1:{provider.port}/v1"
    return serve(
        {
            "FORWARDER_UPSTREAMS": "fetching,uploading",
            "FETCHING_BASE_URL": base,
            "FETCHING_QUIRKS": '{"image_url": "base64"}',
            "UPLOADING_BASE_URL": base,
            "UPLOADING_QUIRKS": '{"file": "upload"}',
            "FORWARDER_API_KEYS": KEY,
            "FORWARDER_FETCH_ALLOW": "127.0.0.0/8",
            "FORWARDER_FETCH_TIMEOUT": "1",
            "FORWARDER_UPLOAD_MAX_AGE": str(AGE),
        }
    )


@pytest.fixture(autouse=True)
def _clear_requests(provider: Loopback) -> None:
    provider.requests.clear()


def with_image(client: str, url: str, model: str) -> Json:
    if client == "chat":
        part: Json = {"type": "image_url", "image_url": {"url": url}}
        return {"model": model, "messages": [{"role": "user", "content": [part]}]}
    part = {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"model": model, "input": [{"role": "user", "content": [part]}]}


def select_requests(provider: Loopback, prefix: bytes) -> list[bytes]:
    return [request for request in provider.requests if request.startswith(prefix)]


def parse_body(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("client", PATHS)
def test_an_image_is_fetched_and_inlined(
    forwarder: Server, provider: Loopback, images: Loopback, client: str
) -> None:
    url = f"http://127.0.0.1:{images.port}/a.png"

    response = http.post(
        forwarder.v1 + PATHS[client], json=with_image(client, url, "fetching/m"), headers=OPEN
    )

    assert response.status_code == 200, response.text
    [sent] = select_requests(provider, b"POST /v1/chat")
    assert parse_body(sent)["messages"][0]["content"][0]["image_url"]["url"] == PNG_URL


@pytest.mark.parametrize("client", PATHS)
@pytest.mark.parametrize(
    "url",
    [
        "http://[::1]:{}/", "http://[::ffff:127.0.0.1]:{}/", "http://2130706433:{}/",
        "http://0x7f.1:{}/", "http://localhost.:9/", "http://169.254.169.254/latest/",
        "http://127.0.0.1:{}/private", "file:///etc/passwd", "http://no-such.invalid/",
    ],
)  # fmt: skip
def test_forbidden_url_is_refused_by_path(
    forwarder: Server, provider: Loopback, images: Loopback, client: str, url: str
) -> None:
    body = with_image(client, url.format(images.port), "fetching/m")

    response = http.post(forwarder.v1 + PATHS[client], json=body, headers=OPEN)

    path = {
        "chat": "messages[0].content[0].image_url.url",
        "responses": "input[0].content[0].image_url",
    }
    assert (response.status_code, response.json()["error"]["param"]) == (400, path[client])
    assert provider.requests == []


def test_a_stalled_download_ends_at_its_time_limit(forwarder: Server, provider: Loopback) -> None:
    with run_server(lambda peer: peer.server.wait()) as slow:
        started = time.monotonic()
        body = with_image("chat", f"http://127.0.0.1:{slow.port}/", "fetching/m")
        response = http.post(f"{forwarder.v1}/chat/completions", json=body, headers=OPEN)

    assert response.status_code == 400
    assert "too long" in response.json()["error"]["message"]
    assert time.monotonic() - started < 2.5
    assert provider.requests == []


@pytest.mark.parametrize(
    ("settings", "key", "status"),
    [
        ({}, None, 400),
        ({"FORWARDER_FETCH": "on"}, "k", 400),
        ({"FORWARDER_API_KEYS": "k"}, None, 401),
        ({"FORWARDER_API_KEYS": "k"}, "other", 401),
        ({"FORWARDER_API_KEYS": "k"}, "k", 200),
        ({"FORWARDER_API_KEYS": "k", "FORWARDER_FETCH": "off"}, "k", 400),
    ],
)
def test_urls_are_fetched_only_for_authenticated_clients(
    serve: Serve,
    provider: Loopback,
    images: Loopback,
    settings: dict[str, str],
    key: str | None,
    status: int,
) -> None:
    server = serve(
        {
            "CHAT_BASE_URL": f"http://127.0.0.1:{provider.port}/v1",
            "CHAT_QUIRKS": '{"image_url": "base64"}',
            "FORWARDER_FETCH_ALLOW": "127.0.0.1",
            **settings,
        }
    )
    url = f"http://127.0.0.1:{images.port}/a.png"
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    body = with_image("chat", url, "m")
    response = http.post(f"{server.v1}/chat/completions", json=body, headers=headers)

    assert response.status_code == status
    assert (images.connections > 0) is (status == 200)


def test_a_file_of_the_upstream_is_sent_by_value(forwarder: Server, provider: Loopback) -> None:
    image = {"type": "input_image", "file_id": "file-png"}
    body = {"model": "fetching/m", "input": [{"role": "user", "content": [image]}]}

    response = http.post(f"{forwarder.v1}/responses", json=body, headers=OPEN)

    assert response.status_code == 200, response.text
    [sent] = select_requests(provider, b"POST /v1/chat/completions")
    assert PNG_URL.encode() in sent


def test_a_file_is_uploaded_once_and_deleted_when_it_is_old(
    forwarder: Server, provider: Loopback
) -> None:
    part = {"type": "file", "file": {"file_data": PDF_URL, "filename": "a.pdf"}}
    body = {"model": "uploading/m", "messages": [{"role": "user", "content": [part]}]}
    for _ in range(2):
        response = http.post(f"{forwarder.v1}/chat/completions", json=body, headers=OPEN)
        assert response.status_code == 200, response.text

    [upload] = select_requests(provider, b"POST /v1/files")
    assert b'filename="a.pdf"' in upload
    assert b"user_data" in upload
    for sent in select_requests(provider, b"POST /v1/chat"):
        assert parse_body(sent)["messages"][0]["content"] == [
            {"type": "file", "file": {"file_id": "file-9"}}
        ]
    until = time.monotonic() + 5
    while not select_requests(provider, b"DELETE /v1/files/file-9 ") and time.monotonic() < until:
        time.sleep(0.05)
    assert len(select_requests(provider, b"DELETE /v1/files/file-9 ")) == 1


def test_the_sdk_s_file_methods_work_through_the_forwarder(
    forwarder: Server, provider: Loopback
) -> None:
    headers = {"X-Forwarder-Upstream": "fetching"}
    with OpenAI(base_url=forwarder.v1, api_key=KEY, max_retries=0, default_headers=headers) as sdk:
        file = sdk.files.create(file=("a.txt", b"text"), purpose="user_data")
        assert file.id == "file-9"
        assert sdk.files.retrieve("file-9").id == "file-9"
        sdk.files.delete("file-9")
    [upload] = select_requests(provider, b"POST /v1/files")
    assert b"text" in upload
    assert [r.split(b" ")[0] for r in provider.requests] == [b"POST", b"GET", b"DELETE"]


def test_a_file_begins_to_arrive_before_its_end_is_there(
    forwarder: Server, provider: Loopback
) -> None:
    url = f"{forwarder.v1}/containers/c/files/f/content?upstream=fetching"
    with http.stream("GET", url, headers=OPEN) as response:
        pieces = response.iter_bytes()
        first_piece = next(pieces)
        provider.go.set()
        rest_size = sum(map(len, pieces))

    assert response.status_code == 200
    assert len(first_piece) + rest_size == 2 * len(PIECE)
