"""Size limits for the answers of upstreams, which may be faulty or hostile.

Nothing is decompressed, because a kilobyte of Brotli can expand to a gigabyte.  Requests ask for
`identity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import httpx2

from forwarder.core.json_lenient import has_more_values

MAX_ANSWER_BYTES = 64 * 2**20
"""Default limit in bytes for an answer that is read as a whole."""

MAX_MODEL_LIST_BYTES = 2**23
"""Bytes of a list of models; the longest lists of providers have about 2 MB."""

MAX_MODEL_LIST_VALUES = 200_000

MAX_ANSWER_VALUES = 2_000_000
"""JSON values of an answer that is read as a whole, other than embeddings.  Parsed, a tiny value
takes up to thirty times as much memory as its text."""

MAX_EMBEDDING_VALUES = 5_000_000
"""JSON values of embeddings: 2,048 vectors of 2,400 numbers."""

MAX_ERROR_BODY_BYTES = 2**20
"""Bytes that are read of an error body; the rest is ignored."""

MAX_HEAD_BYTES = 2**16
"""Bytes of the headers of an answer, including interim answers (1xx) and trailers."""

MAX_INTERIM_ANSWERS = 16


class UnreadableAnswer(httpx2.RemoteProtocolError):
    """An answer beyond the limits; the message is a predicate: "answered with ..."."""


class BoundedStream(httpx2.SyncByteStream):
    """Yields at most ``limit`` bytes of a body.

    If there are more, raises UnreadableAnswer with the message ``problem``, or stops if it is None.
    """

    def __init__(
        self, inner: httpx2.SyncByteStream, limit: int, problem: str | None = None
    ) -> None:
        self._inner = inner
        self._limit = limit
        self._problem = problem

    def __iter__(self) -> Iterator[bytes]:
        left = self._limit
        for piece in self._inner:
            if len(piece) > left:
                if self._problem is not None:
                    raise UnreadableAnswer(self._problem)
                yield piece[:left]
                return
            left -= len(piece)
            yield piece

    def close(self) -> None:
        self._inner.close()


def describe_oversized_answer(limit: int) -> str:
    """Return the predicate for an answer of more than ``limit`` bytes."""
    return f"answered with more than {limit} bytes (limit: FORWARDER_MAX_ANSWER)"


def check_values(body: bytes, limit: int) -> None:
    """Raise UnreadableAnswer if an unparsed answer has more than about ``limit`` JSON values."""
    if has_more_values(body, limit):
        raise UnreadableAnswer(f"answered with more than {limit} JSON values")


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
        response.stream = BoundedStream(body, MAX_ERROR_BODY_BYTES)
    elif is_encoded:
        raise UnreadableAnswer(
            f"answered in the Content-Encoding '{coding[:32]}', though 'identity' was asked for"
        )


def get_body_stream(response: httpx2.Response) -> httpx2.SyncByteStream:
    return cast(httpx2.SyncByteStream, response.stream)


def read_model_list(response: httpx2.Response, limit: int) -> bytes:
    """Read a list of models and close it.  Raises UnreadableAnswer if it is too large."""
    if limit <= MAX_MODEL_LIST_BYTES:
        read_answer(response, limit)
    else:
        problem = f"answered with a list of models of more than {MAX_MODEL_LIST_BYTES} bytes"
        read_answer(response, MAX_MODEL_LIST_BYTES, problem)
    check_values(response.content, MAX_MODEL_LIST_VALUES)
    return response.content


def read_answer(response: httpx2.Response, limit: int, problem: str | None = None) -> None:
    """Read an answer as a whole and close it.

    Raises UnreadableAnswer, with ``problem`` as its message, if the answer is too large.
    """
    if not response.is_error:
        body = get_body_stream(response)
        response.stream = BoundedStream(body, limit, problem or describe_oversized_answer(limit))
    try:
        response.read()
    finally:
        response.close()
