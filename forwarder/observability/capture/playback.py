"""A transport that replaces the network and returns the recorded upstream answers of one record.

It works below the SDK, so the current code processes status, headers, bytes and connection errors
as in the original exchange. It returns bytes without delay.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence

import httpx2
import orjson

from forwarder.core.data_urls import Blob
from forwarder.core.errors import UpstreamTimeout
from forwarder.core.types import Json
from forwarder.observability.capture import serialize

TRANSFER_HEADERS = frozenset(
    {"content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive"}
)
"""Headers about the original transfer, which do not apply to the played-back answer."""

UPLOAD_ANSWER = {"id": "file-recorded", "object": "file", "bytes": 0, "created_at": 0,
         "filename": "recorded", "purpose": "user_data", "status": "processed"}  # fmt: skip
"""The answer to all file uploads, which are not recorded."""


class PlaybackTransport(httpx2.BaseTransport):
    """Answers requests from recorded attempts; each attempt is used once.

    Order of preference: an attempt with the same URL and body, the same URL, any. Raises
    ``httpx2.ConnectError`` if no attempts remain.
    """

    def __init__(self, attempts: Sequence[Json]) -> None:
        self._attempts = list(attempts)
        self._lock = threading.Lock()

    @property
    def remaining_count(self) -> int:
        """Number of attempts that no request has used yet."""
        return len(self._attempts)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/files"):
            return httpx2.Response(200, json=UPLOAD_ANSWER)
        attempt = self._take_attempt(request)
        answer = attempt.get("answer")
        if answer is None or "status" not in answer:
            raise make_transport_error(attempt.get("error") or {}, request, httpx2.ConnectError)
        headers = [
            (k, v) for k, v in answer.get("headers", ()) if k.lower() not in TRANSFER_HEADERS
        ]
        return httpx2.Response(
            answer["status"],
            headers=headers,
            content=stream_answer(attempt, request),
            request=request,
        )

    def _take_attempt(self, request: httpx2.Request) -> Json:
        address = str(request.url).partition("?")[0]
        with self._lock:
            same_url = [a for a in self._attempts if a["url"] == address]
            # Concurrent requests may arrive in a different order than they were recorded.
            same_request = [a for a in same_url if is_same_request(a, request)]
            for attempt in (*same_request, *same_url, *self._attempts):
                self._attempts.remove(attempt)
                return attempt
        raise httpx2.ConnectError("the recording has no more answers", request=request)


def is_same_request(attempt: Json, request: httpx2.Request) -> bool:
    try:
        return bool(orjson.loads(request.content) == attempt["request"].get("body"))
    except (ValueError, KeyError, httpx2.RequestNotRead):
        return False


def stream_answer(attempt: Json, request: httpx2.Request) -> Iterator[bytes]:
    yield from serialize.encode_answer(attempt["answer"])
    if "error" in attempt:
        raise make_transport_error(attempt["error"], request, httpx2.ReadError)


def make_transport_error(
    error: Json, request: httpx2.Request, default: type[httpx2.TransportError]
) -> Exception:
    """Rebuild a recorded error by its type name; unknown names become ``default``."""
    name, message = str(error.get("type")), str(error.get("message") or "connection failed")
    if name == UpstreamTimeout.__name__:
        return UpstreamTimeout(message)
    kind = getattr(httpx2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, httpx2.TransportError)):
        kind = default
    failure = kind(message, request=request)
    if isinstance(errno := error.get("errno"), int):
        # The constructor returns the OSError subclass for this errno.
        failure.__cause__ = OSError(errno, os.strerror(errno))
    return failure


def fetch_placeholders(urls: Mapping[str, str]) -> Mapping[str, Blob]:
    """Return a placeholder per URL instead of its content; recorded answers do not depend on it."""
    return {url: Blob(b"not fetched", "image/png", None) for url in urls}
