"""HTTP/1.1 as the load speaks it: requests, and whether a response has ended and what is in it.

Nothing is parsed while a measurement runs: an arrival costs the same however long the answer is.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
"""Neither SSE nor JSON holds a bare CRLF, so nothing else in these answers ends like this."""


def request(port: int, client: str, body: bytes) -> bytes:
    """A request of a client of that protocol."""
    path = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}[client]
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer sk-bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def is_complete(raw: bytes | bytearray) -> bool:
    """Does ``raw`` end where its response ends?"""
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(raw, 0, end)
    if length:
        return len(raw) - end - 4 >= int(length[1])
    return raw.endswith(_LAST_CHUNK)


def status_of(raw: bytes | bytearray) -> int:
    """The status code of a response."""
    return int(raw[9:12])


def body_of(raw: bytes | bytearray) -> bytes:
    """The body of a complete response, without its framing."""
    end = raw.find(b"\r\n\r\n")
    body = bytes(raw[end + 4 :])
    return _joined(body) if _CHUNKED.search(raw, 0, end) else body


def _joined(framed: bytes) -> bytes:
    pieces: list[bytes] = []
    position = 0
    while True:
        line = framed.index(b"\r\n", position)
        size = int(framed[position:line], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(framed[line + 2 : line + 2 + size])
        position = line + 2 + size + 2
