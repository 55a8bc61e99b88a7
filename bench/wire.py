"""HTTP/1.1 for the load: builds requests, detects the end of responses, extracts bodies.

Responses are not parsed during a measurement, so each arrival has a constant cost.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
"""The last chunk. SSE and JSON bodies contain no CRLF here, so no other data ends like this."""


def build_request(port: int, client: str, body: bytes) -> bytes:
    """Return an HTTP request in the protocol ``client``."""
    path = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}[client]
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer sk-bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def is_complete(raw: bytes | bytearray) -> bool:
    """Check whether ``raw`` is a complete response."""
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(raw, 0, end)
    if length:
        return len(raw) - end - 4 >= int(length[1])
    return raw.endswith(_LAST_CHUNK)


def read_status(raw: bytes | bytearray) -> int:
    """Return the status code of a response."""
    return int(raw[9:12])


def read_body(raw: bytes | bytearray) -> bytes:
    """Return the body of a complete response, without chunked framing."""
    end = raw.find(b"\r\n\r\n")
    body = bytes(raw[end + 4 :])
    return join_chunks(body) if _CHUNKED.search(raw, 0, end) else body


def join_chunks(framed: bytes) -> bytes:
    pieces: list[bytes] = []
    position = 0
    while True:
        line = framed.index(b"\r\n", position)
        size = int(framed[position:line], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(framed[line + 2 : line + 2 + size])
        position = line + 2 + size + 2
