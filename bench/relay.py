"""The baseline: a WSGI application that copies the upstream's bytes without reading them.

It sends HTTP/1.0 requests with keep-alive, so that answers have a length and no chunked framing to
remove. ``RELAY_PORT`` is the upstream's loopback port.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

_HEAD = re.compile(
    rb"HTTP/1.1 (\d+ [^\r]*)\r\nContent-Type: ([^\r]+)\r\n.*Content-Length: (\d+)\r\n\r\n",
    re.DOTALL,
)
_idle: list[socket.socket] = []


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Forward the request and stream the answer back."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    upstream = _idle.pop() if _idle else connect_upstream()
    upstream.sendall(
        b"POST %s HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s"
        % (environ["PATH_INFO"].encode(), len(body), body)
    )
    first_bytes_received = upstream.recv(65536)
    head = _HEAD.match(first_bytes_received)
    if head is None:
        raise ValueError("the upstream's head did not arrive in one piece")
    status, content_type, length = (group.decode() for group in head.groups())
    headers = [("Content-Type", content_type)]
    if content_type == "application/json":  # real streams have no known length
        headers.append(("Content-Length", length))
    start_response(status, headers)
    return copy_answer(upstream, first_bytes_received[head.end() :], int(length))


def connect_upstream() -> socket.socket:
    upstream = socket.create_connection(("127.0.0.1", int(os.environ["RELAY_PORT"])))
    upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return upstream


def copy_answer(upstream: socket.socket, data: bytes, remaining: int) -> Iterator[bytes]:
    while data:
        remaining -= len(data)
        yield data
        data = upstream.recv(65536) if remaining else b""
    _idle.append(upstream)
