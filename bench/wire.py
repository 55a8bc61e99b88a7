"""HTTP/1.1 responses as the load receives them: has this one ended, and what is in it.

Nothing is parsed while a measurement runs: an arrival costs the same however long the answer is.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
"""Neither SSE nor JSON holds a bare CRLF, so nothing else in these answers ends like this."""


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
