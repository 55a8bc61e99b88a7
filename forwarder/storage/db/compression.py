"""JSON as the store keeps it: bytes, compressed where that is worth it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa

MIN_COMPRESSED_BYTES = 4096
"""Bytes from which on they are compressed: for less, that costs more than to write four pages."""

SpendCallback = Callable[[bytes], None]
"""Is given each piece of JSON before it is parsed; raises an error when there is too much."""

PLAIN_TAG, ZLIB_TAG = b"j", b"z"


WRITTEN_KEY = "written"


def count_written(connection: sa.Connection, size: int) -> None:
    """Note that so many bytes are stored in this transaction."""
    connection.info[WRITTEN_KEY] = connection.info.get(WRITTEN_KEY, 0) + size


def pop_written(connection: sa.Connection) -> int:
    """The bytes noted since the last time."""
    return int(connection.info.pop(WRITTEN_KEY, 0))


def pack_json(value: Any) -> bytes:
    """A JSON value as bytes; the first says how the others are to be read."""
    data = orjson.dumps(value)
    return (
        PLAIN_TAG + data if len(data) < MIN_COMPRESSED_BYTES else ZLIB_TAG + zlib.compress(data, 1)
    )


def unpack_json(data: bytes, spend: SpendCallback | None = None) -> Any:
    """The value again."""
    body = bytes(data[1:])
    if data[:1] == ZLIB_TAG:
        body = zlib.decompress(body)
    if spend is not None:
        spend(body)
    return orjson.loads(body)
