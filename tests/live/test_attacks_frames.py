"""WebSocket frames that hold next to nothing, beside a neighbour on each worker."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.conftest import Serve, make_settings
from tests.live.neighbour import Neighbour
from tests.live.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.exhaustive]

MAX_STALL = 0.1
"""Seconds that a neighbour may be stalled by the worker, beyond what the control waits."""

SECONDS = 2.0
"""How long a flood goes on, unless the server ends it."""


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    return serve(neighbour.settings | make_settings(upstream, WEB_CONCURRENCY="2"))


def open_websocket(server: Server) -> socket.socket:
    """A WebSocket with frames that the test writes itself."""
    host, port = server.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), 5)
    key = base64.b64encode(b"0" * 16).decode()
    sock.sendall(
        f"GET /v1/responses HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        "\r\n".encode()
    )
    assert sock.recv(65536).startswith(b"HTTP/1.1 101")
    return sock


def make_frame(opcode: int, data: bytes) -> bytes:
    """A masked frame of a client; the highest bit of ``opcode`` ends the message."""
    return bytes([opcode, 0x80 | len(data), 0, 0, 0, 0]) + data


TEXT, CONTINUATION, PING = 0x01, 0x00, 0x89


@pytest.mark.parametrize(
    ("first_frame", "frame", "code"),
    [
        (make_frame(TEXT, b"{"), make_frame(CONTINUATION, b" "), 1009),
        (make_frame(TEXT, b"{"), make_frame(CONTINUATION, b""), 1009),
        (b"", make_frame(PING, b""), None),
    ],
    ids=["one-byte frames", "empty frames", "pings"],
)
def test_a_flood_of_small_frames(
    first_frame: bytes, frame: bytes, code: int | None, server: Server, neighbour: Neighbour
) -> None:
    flood, received = frame * 10_000, bytearray()
    with neighbour.watch(server, MAX_STALL), open_websocket(server) as sock:
        reader = threading.Thread(target=read_all, args=(sock, received), daemon=True)
        reader.start()
        deadline = time.monotonic() + SECONDS
        with contextlib.suppress(OSError):
            sock.sendall(first_frame)
            while time.monotonic() < deadline:
                sock.sendall(flood)
        sock.settimeout(0.5)
        reader.join(5)
    if code is not None:
        assert received[:1] == b"\x88"
        assert int.from_bytes(received[2:4], "big") == code
        assert b"FORWARDER_MAX_CHUNK_OVERHEAD" in received
    else:
        assert received[:1] == b"\x8a"  # a pong


def read_all(sock: socket.socket, received: bytearray) -> None:
    """Read until the server closes the connection, or sends nothing more."""
    with contextlib.suppress(OSError):
        while piece := sock.recv(2**16):
            received += piece
