"""Encoding of JSON columns: bytes, compressed if they are large enough."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa

MIN_COMPRESSED_BYTES = 4096
"""Smaller values are not compressed: that would take longer than writing four more pages."""

SpendCallback = Callable[[bytes], None]
"""Receives each JSON document before it is parsed; raises an error if a limit is exceeded."""

PLAIN_TAG, ZLIB_TAG = b"j", b"z"


WRITTEN_KEY = "written"


def count_written(connection: sa.Connection, size: int) -> None:
    """Add to the number of bytes stored in this transaction."""
    connection.info[WRITTEN_KEY] = connection.info.get(WRITTEN_KEY, 0) + size


def pop_written(connection: sa.Connection) -> int:
    """Return the number of bytes since the last call, and reset it."""
    return int(connection.info.pop(WRITTEN_KEY, 0))


def pack_json(value: Any) -> bytes:
    """Encode a JSON value. The first byte identifies the encoding."""
    data = orjson.dumps(value)
    return (
        PLAIN_TAG + data if len(data) < MIN_COMPRESSED_BYTES else ZLIB_TAG + zlib.compress(data, 1)
    )


def unpack_text(data: bytes) -> bytes:
    """Decode a value as JSON text."""
    body = bytes(data[1:])
    return zlib.decompress(body) if data[:1] == ZLIB_TAG else body


def unpack_json(data: bytes, spend: SpendCallback | None = None) -> Any:
    """Decode a value."""
    body = unpack_text(data)
    if spend is not None:
        spend(body)
    return orjson.loads(body)
