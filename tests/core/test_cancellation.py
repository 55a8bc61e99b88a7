"""A disconnect of the client ends the wait for the response head; no other connection is tried."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx2
import pytest
from gevent import socket

from forwarder.core.cancellation import (
    CancellationScope,
    is_client_waiting,
    register_socket,
    unregister_socket,
)
from forwarder.upstream.transport.connection_pool import ServerConnectionPool
from forwarder.upstream.transport.gevent_transport import GeventTransport
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, run_server

PROGRAM = """
from gevent import monkey; monkey.patch_all()
import sys, time
import gevent, httpx2
from forwarder.context.request_context import RequestContext
from forwarder.core.cancellation import CancellationScope
from forwarder.upstream.transport.gevent_transport import GeventTransport
from forwarder.core.translation_context import LossReport

url, kept = sys.argv[1], int(sys.argv[2])
client = httpx2.Client(transport=GeventTransport())
context = RequestContext(id="x", route="chat", loss_report=LossReport())
for _ in range(kept):
    client.get(url)

def ask():
    try:
        with CancellationScope(context):
            client.get(url, timeout=20)
    except httpx2.TransportError as error:
        return type(error).__name__

asking = gevent.spawn(ask)
gevent.sleep(0.3)
started = time.monotonic()
context.cancel()
asking.join()
print(asking.value, time.monotonic() - started < 1, len(context.cancel_callbacks))
"""


def answer_once(peer: Peer) -> None:
    """Answers only the first request."""
    peer.request()
    peer.answer(b"ok")
    wait_for_close(peer)


def wait_for_close(peer: Peer) -> None:
    """Reads the request and sends nothing until the client has closed."""
    peer.request()
    peer.request()


@check_each(
    ("script", "reused_connections", "error"),
    [(wait_for_close, 0, "RemoteProtocolError"), (answer_once, 1, "ReadError")],
    ids=["fresh", "kept"],
)
@pytest.mark.live
def test_disconnect_of_the_client_ends_the_wait_for_the_head(
    script: object, reused_connections: int, error: str
) -> None:
    with run_server(script) as server:  # type: ignore[arg-type]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.url, str(reused_connections)],
            capture_output=True,
            text=True,
            timeout=20,
        )

        assert done.stdout.split() == [error, "True", "0"], done.stderr
        assert time.monotonic() - started < 10
        assert server.connections == 1
        assert len(server.requests) == reused_connections + 1


class Waiter:
    """A client that can disconnect."""

    def __init__(self) -> None:
        self.cancel_callbacks: set[object] = set()
        self.is_cancelled = False


def test_without_a_scope_no_socket_is_registered() -> None:
    assert is_client_waiting()
    assert register_socket(None) is None  # type: ignore[arg-type]
    unregister_socket(None)


def test_disconnected_client_is_not_waiting() -> None:
    waiter = Waiter()
    with CancellationScope(waiter):  # type: ignore[arg-type]
        assert is_client_waiting()
        waiter.is_cancelled = True
        assert not is_client_waiting()
    assert is_client_waiting()


def test_disconnect_during_connect_sends_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upstream would bill an answer that no client reads."""
    waiter = Waiter()
    connect = ServerConnectionPool._open_connection

    def open_and_disconnect(pool: ServerConnectionPool, seconds: float | None) -> socket.socket:
        waiter.is_cancelled = True
        return connect(pool, seconds)

    monkeypatch.setattr(ServerConnectionPool, "_open_connection", open_and_disconnect)
    with run_server(wait_for_close) as server:
        transport = GeventTransport(max_connections=1)
        client = httpx2.Client(transport=transport)
        with CancellationScope(waiter), pytest.raises(httpx2.ReadError):  # type: ignore[arg-type]
            client.get(server.url)
        assert (server.requests, transport.opened_connections) == ([], 1)
