"""JSON as the store keeps it: bytes, compressed where that is worth it."""

from __future__ import annotations

import zlib
from typing import Any

import orjson

_LARGE = 4096
"""Bytes from which on they are compressed: for less, that costs more than to write four pages."""

_PLAIN, _ZLIB = b"j", b"z"


def packed(value: Any) -> bytes:
    """A JSON value as bytes; the first says how the others are to be read."""
    data = orjson.dumps(value)
    return _PLAIN + data if len(data) < _LARGE else _ZLIB + zlib.compress(data, 1)


def unpacked(data: bytes) -> Any:
    """The value again."""
    body = bytes(data[1:])
    return orjson.loads(zlib.decompress(body) if data[:1] == _ZLIB else body)
