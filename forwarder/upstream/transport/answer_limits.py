"""Size limits for the answers of upstreams, which may be faulty or hostile.

Nothing is decompressed, because a kilobyte of Brotli can expand to a gigabyte.  Requests ask for
`identity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import httpx2

MAX_ANSWER_BYTES = 64 * 2**20
"""Default limit in bytes for an answer that is read as a whole."""

MAX_ERROR_BODY_BYTES = 2**20
"""Bytes that are read of an error body; the rest is ignored."""

MAX_HEAD_BYTES = 2**16
"""Bytes of the headers of an answer, including interim answers (1xx) and trailers."""

MAX_INTERIM_ANSWERS = 16


class UnreadableAnswer(httpx2.RemoteProtocolError):
    """An answer beyond the limits; the message is a predicate: "answered with ..."."""


class BoundedStream(httpx2.SyncByteStream):
    """Yields at most ``limit`` bytes of a body; raises beyond it if ``refuses``, else stops."""

    def __init__(self, inner: httpx2.SyncByteStream, limit: int, refuses: bool) -> None:
        self._inner = inner
        self._limit = limit
        self._refuses = refuses

    def __iter__(self) -> Iterator[bytes]:
        left = self._limit
        for piece in self._inner:
            if len(piece) > left:
                if self._refuses:
                    raise UnreadableAnswer(describe_oversized_answer(self._limit))
                yield piece[:left]
                return
            left -= len(piece)
            yield piece

    def close(self) -> None:
        self._inner.close()


def describe_oversized_answer(limit: int) -> str:
    """Return the predicate for an answer of more than ``limit`` bytes."""
    return f"answered with more than {limit} bytes (limit: FORWARDER_MAX_ANSWER)"


def limit_answer(response: httpx2.Response) -> None:
    """Apply the limits to an unread answer: cut error bodies and refuse compression.

    Raises UnreadableAnswer.  A compressed error keeps its status and loses its body.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    is_encoded = coding not in ("", "identity")
    if is_encoded:
        get_body_stream(response).close()
    if response.is_error:
        response.headers.pop("content-encoding", None)
        body = httpx2.ByteStream(b"") if is_encoded else get_body_stream(response)
        response.stream = BoundedStream(body, MAX_ERROR_BODY_BYTES, refuses=False)
    elif is_encoded:
        raise UnreadableAnswer(
            f"answered in the Content-Encoding '{coding[:32]}', though 'identity' was asked for"
        )


def get_body_stream(response: httpx2.Response) -> httpx2.SyncByteStream:
    return cast(httpx2.SyncByteStream, response.stream)


def read_answer(response: httpx2.Response, limit: int) -> None:
    """Read an answer as a whole and close it.  Raises UnreadableAnswer if it is too large."""
    if not response.is_error:
        response.stream = BoundedStream(get_body_stream(response), limit, refuses=True)
    try:
        response.read()
    finally:
        response.close()
