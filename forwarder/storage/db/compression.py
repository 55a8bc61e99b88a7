"""JSON as the store keeps it: bytes, compressed where that is worth it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa

_LARGE = 4096
"""Bytes from which on they are compressed: for less, that costs more than to write four pages."""

Spend = Callable[[bytes], None]
"""Is given each piece of JSON before it is parsed; raises an error when there is too much."""

_PLAIN, _ZLIB = b"j", b"z"


_WRITTEN = "written"


def note_written(connection: sa.Connection, size: int) -> None:
    """Note that so many bytes are stored in this transaction."""
    connection.info[_WRITTEN] = connection.info.get(_WRITTEN, 0) + size


def take_written(connection: sa.Connection) -> int:
    """The bytes noted since the last time."""
    return int(connection.info.pop(_WRITTEN, 0))


def packed(value: Any) -> bytes:
    """A JSON value as bytes; the first says how the others are to be read."""
    data = orjson.dumps(value)
    return _PLAIN + data if len(data) < _LARGE else _ZLIB + zlib.compress(data, 1)


def unpacked(data: bytes, spend: Spend | None = None) -> Any:
    """The value again."""
    body = bytes(data[1:])
    if data[:1] == _ZLIB:
        body = zlib.decompress(body)
    if spend is not None:
        spend(body)
    return orjson.loads(body)
