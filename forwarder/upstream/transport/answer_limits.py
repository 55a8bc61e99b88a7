"""Limits of what an upstream answers: it may be broken, or in the wrong hands.

Nothing is decompressed: a kilobyte of Brotli can be a gigabyte, and `identity` is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import httpx2

MAX_ANSWER_BYTES = 64 * 2**20
"""Bytes of an answer that is read as a whole, unless a setting says otherwise."""

MAX_ERROR_BODY_BYTES = 2**20
"""Bytes of an error's body that are read; the rest is left."""

MAX_HEAD_BYTES = 2**16
"""Bytes of the headers of an answer, with those of interim answers and the trailers."""

MAX_INTERIM_ANSWERS = 16


class UnreadableAnswer(httpx2.RemoteProtocolError):
    """An answer that is not read; the text says what the upstream did."""


class BoundedStream(httpx2.SyncByteStream):
    """At most ``limit`` bytes of a body: the rest is left, or refused."""

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
    """What an upstream did that answered with more than ``limit`` bytes."""
    return f"answered with more than {limit} bytes (limit: FORWARDER_MAX_ANSWER)"


def limit_answer(response: httpx2.Response) -> None:
    """Hold an unread answer to the limits: cut the body of an error, refuse to decompress.

    Raises AnswerRefused.  An error that is compressed keeps its status and loses its body.
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
    """Read an answer as a whole and close it.  Raises AnswerRefused when it is too large."""
    if not response.is_error:
        response.stream = BoundedStream(get_body_stream(response), limit, refuses=True)
    try:
        response.read()
    finally:
        response.close()
