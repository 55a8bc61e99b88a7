"""Requests that have queued too long are refused, probes are not."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from forwarder.server.gunicorn_worker import measure_wait, refuse_late


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's and the worker's end of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=5)
        server_end, _ = listener.accept()
    with client, server_end:
        yield client, server_end


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when data arrived")
def test_the_wait_counts_from_the_arrival_of_the_request(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server_end = pair
    time.sleep(0.3)
    assert measure_wait(server_end) == 0
    client.sendall(b"POST / HTTP/1.1\r\n")
    time.sleep(0.2)
    assert 0.1 < measure_wait(server_end) < 0.3


@pytest.mark.parametrize(
    ("path", "end"), [(b"/v1/responses", b'"code":"overloaded"}}'), (b"/api/chat", b'TIMEOUT)."}')]
)
def test_a_late_request_gets_a_whole_answer(
    path: bytes, end: bytes, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, server_end = pair
    client.sendall(b"POST " + path + b" HTTP/1.1\r\n\r\n" + b"x" * 100_000)
    assert refuse_late(server_end)
    answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(end)


@pytest.mark.parametrize("path", [b"/health", b"/ready", b"/metrics"])
def test_probes_are_served(path: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    client, server_end = pair
    client.sendall(b"GET " + path + b" HTTP/1.1\r\n\r\n")
    assert not refuse_late(server_end)
    assert server_end.recv(100).startswith(b"GET " + path)
