"""The stock transport connects only to the addresses of its lookup."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest

from forwarder.upstream.transport.pinned_transport import PinnedTransport
from tests.helpers.loopback import Peer, find_unused_port, run_server

LOOPBACK = 2, ("127.0.0.1", 0)


def answer_request(peer: Peer) -> None:
    while peer.request():
        peer.answer(b"here")


def test_pinned_transport_connects_to_looked_up_addresses() -> None:
    lookups: list[Any] = []

    def lookup(host: str, port: int) -> list[Any]:
        lookups.append((host, port))
        return [LOOPBACK]

    with (
        run_server(answer_request) as server,
        httpx2.Client(transport=PinnedTransport(lookup)) as client,
    ):
        port = httpx2.URL(server.url).port
        response = client.get(f"http://nowhere.invalid:{port}/")

    assert response.text == "here"
    assert b"Host: nowhere.invalid" in server.requests[0]
    assert lookups == [("nowhere.invalid", port)]


def test_pinned_transport_without_an_address_fails() -> None:
    with (
        run_server(answer_request) as server,
        httpx2.Client(transport=PinnedTransport(lambda host, port: [])) as client,
        pytest.raises(httpx2.ConnectError),
    ):
        client.get(server.url)

    assert server.requests == []


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    def lookup(host: str, port: int) -> list[Any]:
        return [(2, ("127.0.0.2", 0)), LOOPBACK]

    with (
        run_server(answer_request) as server,
        httpx2.Client(transport=PinnedTransport(lookup)) as client,
    ):
        assert client.get(server.url).text == "here"


def test_pinned_transport_fails_if_no_address_answers() -> None:
    with (
        httpx2.Client(transport=PinnedTransport(lambda host, port: [LOOPBACK])) as client,
        pytest.raises(httpx2.ConnectError),
    ):
        client.get(f"http://127.0.0.1:{find_unused_port()}/")


def test_closing_the_transport_does_not_end_an_answer_in_progress() -> None:
    def answer_slowly(peer: Peer) -> None:
        peer.request()
        peer.start_chunked()
        peer.send(b"5\r\nfirst\r\n")
        go.wait(5)
        peer.send(b"4\r\nlast\r\n0\r\n\r\n")

    go = threading.Event()
    transport = PinnedTransport(lambda host, port: [LOOPBACK])
    with (
        run_server(answer_slowly) as server,
        httpx2.Client(transport=transport) as client,
        client.stream("GET", server.url) as response,
    ):
        pieces = response.iter_bytes()
        assert next(pieces) == b"first"
        transport.close()
        go.set()
        assert b"".join(pieces) == b"last"
