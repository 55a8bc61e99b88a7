"""A client that reads slowly or not at all makes the upstream wait; nothing piles up between."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.helpers.loopback import Peer, encode_chunk, run_server
from tests.live.server import FLASK, GUNICORN, Server, run_forwarder
from tests.live.talk import PATHS, make_body

TEXT = "x" * 16384
OFFERED = 256 * 2**20
"""Bytes that the upstream would like to send."""

BETWEEN = 48 * 2**20
"""Bytes that may be on their way: the system's own buffers on both sides, and a little."""

EVENTS = {
    "chat": {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": TEXT}}]},
    "responses": {"type": "response.output_text.delta", "output_index": 0, "content_index": 0,
                  "item_id": "msg_1", "delta": TEXT, "logprobs": []},
}  # fmt: skip

every_server = pytest.mark.parametrize("module", [GUNICORN, FLASK], ids=["gevent", "threads"])


class Flood:
    """An upstream that sends as fast as it can; ``sent`` counts bytes, ``left`` is set when cut."""

    def __init__(self, protocol: str) -> None:
        self.sent = 0
        self.left = threading.Event()
        event = json.dumps(EVENTS[protocol]).encode()
        self._frame = encode_chunk(b"data: " + event + b"\n\n")

    def __call__(self, peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                  b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        peer.sock.settimeout(30)
        try:
            while self.sent < OFFERED:
                peer.send(self._frame)
                self.sent += len(self._frame)
        except OSError:
            self.left.set()

    def wait_until_stopped(self) -> bool:
        """Waits until nothing more is sent; False when all of it was."""
        sent_before = -1
        while sent_before != self.sent and self.sent < OFFERED:
            sent_before = self.sent
            time.sleep(0.4)
        return self.sent < OFFERED


@contextmanager
def run_flooded_forwarder(
    protocol: str, module: tuple[str, ...], tmp_path: Path
) -> Iterator[tuple[Server, Flood]]:
    """A forwarder between a client and such an upstream."""
    flood = Flood(protocol)
    with run_server(flood) as upstream:
        environment = {"UP_BASE_URL": f"{upstream.url}/v1", "UP_API": protocol, "UP_API_KEY": "k"}
        with run_forwarder(
            {"FORWARDER_UPSTREAMS": "up", **environment}, tmp_path, module
        ) as server:
            yield server, flood


def open_stream(server: Server, client: str, **parameters: object) -> socket.socket:
    """Request a stream and return its connection."""
    body = json.dumps(make_body(client, model="m", stream=True, **parameters)).encode()
    url = urlsplit(server.url)
    sock = socket.create_connection((str(url.hostname), url.port or 80), timeout=10)
    head = f"POST /v1{PATHS[client]} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    return sock


@every_server
@pytest.mark.parametrize(("client", "upstream_api"), [("chat", "responses"), ("responses", "chat")])
def test_an_upstream_waits_for_a_client_that_does_not_read(
    client: str, upstream_api: str, module: tuple[str, ...], tmp_path: Path
) -> None:
    with (
        run_flooded_forwarder(upstream_api, module, tmp_path) as (server, flood),
        open_stream(server, client) as sock,
    ):
        assert flood.wait_until_stopped()
        assert flood.sent < BETWEEN
        sock.close()
        assert flood.left.wait(5)


@every_server
def test_slow_reader_of_several_choices_stops_the_upstream(
    module: tuple[str, ...], tmp_path: Path
) -> None:
    with (
        run_flooded_forwarder("responses", module, tmp_path) as (server, flood),
        open_stream(server, "chat", n=2),
    ):
        assert flood.wait_until_stopped()
        assert flood.sent < 2 * BETWEEN
