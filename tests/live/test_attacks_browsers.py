"""Attacks by web pages, other clients and upstreams on the forwarder's pages and stored data."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest

from tests.fake_provider import Answer, ScriptedUpstream
from tests.live.conftest import Serve, make_settings
from tests.live.neighbour import Neighbour
from tests.live.server import Server
from tests.live.talk import http, make_body, send_request

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
EVIL = "http://evil.example"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def without_keys(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """Two workers that any program on this machine may use."""
    return serve(neighbour.settings | make_settings(upstream, WEB_CONCURRENCY="2"))


@pytest.fixture(scope="module")
def with_keys(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """Two workers with clients of their own, and for the pages of all origins."""
    keys = {"FORWARDER_API_KEYS": "k,key-a,key-b", "FORWARDER_CORS_ORIGINS": "*"}
    return serve(neighbour.settings | make_settings(upstream, WEB_CONCURRENCY="2", **keys))


@pytest.fixture(autouse=True)
def _watch_neighbour(request: pytest.FixtureRequest, neighbour: Neighbour) -> Iterator[None]:
    """A neighbour beside each attack."""
    names = {"without_keys", "with_keys", "server_with_store"} & set(request.fixturenames)
    [name] = names
    with neighbour.watch(request.getfixturevalue(name)):
        yield


def send_raw(server: Server, method: str, path: str, body: bytes, **headers: str) -> int:
    """The status of an answer to a request with exactly these headers."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), 10) as connection:
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines.append(f"Content-Length: {len(body)}")
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return int(connection.recv(4096).split(b" ", 2)[1])


def test_a_page_of_another_site_cannot_use_the_upstream(
    without_keys: Server, upstream: ScriptedUpstream
) -> None:
    body = json.dumps(make_body("chat")).encode()
    for origin in (EVIL, "null", "http://127.0.0.1:1"):
        page = {"Host": urlsplit(without_keys.url).netloc, "Content_Type": "text/plain"}
        status = send_raw(without_keys, "POST", "/v1/chat/completions", body, Origin=origin, **page)
        assert status == 403
    assert upstream.requests == []


def test_a_page_with_dns_rebinding_reads_no_response(
    without_keys: Server, upstream: ScriptedUpstream
) -> None:
    body = json.dumps(make_body("responses")).encode()
    rebound = {"Host": "rebound.example:8000", "Origin": "http://rebound.example:8000"}

    assert send_raw(without_keys, "POST", "/v1/responses", body, **rebound) == 403
    for path in ("/v1/chat/completions", "/v1/files", "/v1/models", "/api/tags", "/metrics"):
        assert send_raw(without_keys, "GET", path, b"", **rebound) == 403
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("rebound.example", "http://rebound.example", 403),
        ("127.0.0.1", EVIL, 403),
        ("127.0.0.1", "http://localhost:3000", 403),
        ("127.0.0.1", "http://127.0.0.1", 101),
        ("localhost", "vscode-webview://1a2b", 101),
    ],
)
def test_cross_origin_websockets_are_refused(
    host: str, origin: str, status: int, without_keys: Server
) -> None:
    headers = {name.replace("-", "_"): value for name, value in HANDSHAKE.items()}
    received_status = send_raw(
        without_keys, "GET", "/v1/responses", b"", Host=host, Origin=origin, **headers
    )
    assert received_status == status


def test_administrator_routes_refuse_requests_of_web_pages(with_keys: Server) -> None:
    body = {"source": "m", "destination": "n"}

    def copy(**headers: str) -> int:
        return http.post(f"{with_keys.url}/api/copy", json=body, headers=headers).status_code

    assert copy() == 404  # the request is allowed; the model does not exist
    for origin in (EVIL, "http://localhost:3000", "null"):
        assert copy(Origin=origin) == 403
    assert copy(Host="rebound.example") == 403


# -- seals --------------------------------------------------------------------------------------


def test_sealed_reasoning_of_one_client_is_unreadable_for_another(
    with_keys: Server, upstream: ScriptedUpstream
) -> None:
    body = make_body("responses", model="chat/m", include=["reasoning.encrypted_content"])
    upstream.script(Answer(text="Done.", reasoning="a private thought"))
    output = send_request(with_keys, "responses", body, X_Api_Key="key-a").json["output"]
    assert output[0]["encrypted_content"].startswith("fwd2.")

    def ask_again(key: str) -> str:
        """The upstream's request when a client returns the sealed reasoning, and the answer."""
        upstream.requests.clear()
        item = {**output[0], "summary": [], "content": []}
        history = [item, *output[1:], {"role": "user", "content": "Print your reasoning."}]
        response = send_request(
            with_keys, "responses", {"model": "chat/m", "input": history}, X_Api_Key=key
        )
        assert response.status == 200
        return json.dumps([request.body for request in upstream.requests]) + response.text

    assert "a private thought" in ask_again("key-a")
    assert "a private thought" not in ask_again("key-b")


# -- ids ----------------------------------------------------------------------------------------

LONG = "x" * 3000


@pytest.fixture(scope="module")
def server_with_store(
    serve: Serve, upstream: ScriptedUpstream, database: str, neighbour: Neighbour
) -> Server:
    """A forwarder with each kind of database."""
    settings = {"FORWARDER_DATABASE_URL": database, "WEB_CONCURRENCY": "2"}
    return serve(neighbour.settings | make_settings(upstream, **settings))


@pytest.mark.parametrize("name", ["a\0b", LONG, "\0", "€" * 1000])
def test_ids_that_no_database_can_index_are_refused(name: str, server_with_store: Server) -> None:
    user = {"role": "user", "content": "hi"}
    for parameters in (
        {"previous_response_id": name},
        {"conversation": name},
        {"conversation": {"id": name}},
        {"input": [{"type": "item_reference", "id": name}, user]},
        {"input": [{"id": name, "type": "message", **user}]},
    ):
        response = send_request(
            server_with_store, "responses", {"model": "chat/m", "input": "hi", **parameters}
        )
        assert (response.status, response.error["code"]) == (400, "invalid_value")
    item = {"id": name, "type": "message", **user}
    creation = http.post(f"{server_with_store.v1}/conversations", json={"items": [item]})
    assert creation.status_code == 400
    for query in ("model", "after"):
        got_list = http.get(f"{server_with_store.v1}/chat/completions", params={query: name})
        assert got_list.status_code in (400, 414)
    for route in ("responses", "conversations", "chat/completions"):
        assert http.get(f"{server_with_store.v1}/{route}/{quote(name)}").status_code in (
            400,
            404,
            414,
        )
    assert http.get(f"{server_with_store.url}/ready").json()["store"]["reachable"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("count", "status"),
    [(40_000, 400), (200_000, 400), (300_000, 413)],  # the last has too many JSON values
)
def test_store_works_after_requests_with_many_references(
    count: int, status: int, server_with_store: Server
) -> None:
    references = [{"type": "item_reference", "id": f"msg_{i}"} for i in range(count)]
    body = {"model": "chat/m", "input": references}
    response = http.post(f"{server_with_store.v1}/responses", json=body, timeout=60)
    assert response.status_code == status
    assert http.get(f"{server_with_store.url}/ready").json()["store"]["reachable"]
