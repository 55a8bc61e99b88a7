"""An upstream that says again what it has said: the answers of one record, in place of the network.

It works below the SDK, so that all of today's code reads them: status, headers, bytes, and the way
in which an answer broke.  They come as fast as they are read.
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
"""Headers about how an answer went over, which it does not do again."""

UPLOAD_ANSWER = {"id": "file-recorded", "object": "file", "bytes": 0, "created_at": 0,
         "filename": "recorded", "purpose": "user_data", "status": "processed"}  # fmt: skip
"""What any upload is answered with: files are not recorded."""


class PlaybackTransport(httpx2.BaseTransport):
    """Gives each request the next answer of the same address, or else the next of all."""

    def __init__(self, attempts: Sequence[Json]) -> None:
        self._attempts = list(attempts)
        self._lock = threading.Lock()

    @property
    def remaining_count(self) -> int:
        """How many answers nobody has asked for."""
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
            same = (
                a for a in self._attempts if a["url"] == address and is_same_request(a, request)
            )
            near = (a for a in self._attempts if a["url"] == address)
            for found in (*same, *near, *self._attempts):
                self._attempts.remove(found)
                return found
        raise httpx2.ConnectError("the recording has no more answers", request=request)


def is_same_request(attempt: Json, request: httpx2.Request) -> bool:
    """Requests that were made at the same time may come in another order."""
    try:
        return bool(orjson.loads(request.content) == attempt["request"].get("body"))
    except (ValueError, KeyError, httpx2.RequestNotRead):
        return False


def stream_answer(attempt: Json, request: httpx2.Request) -> Iterator[bytes]:
    yield from serialize.encode_answer(attempt["answer"])
    if "error" in attempt:
        raise make_transport_error(attempt["error"], request, httpx2.ReadError)


def make_transport_error(
    error: Json, request: httpx2.Request, otherwise: type[httpx2.TransportError]
) -> Exception:
    """The failure of this name."""
    name, message = str(error.get("type")), str(error.get("message") or "it broke")
    if name == UpstreamTimeout.__name__:
        return UpstreamTimeout(message)
    kind = getattr(httpx2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, httpx2.TransportError)):
        kind = otherwise
    failure = kind(message, request=request)
    if isinstance(errno := error.get("errno"), int):
        failure.__cause__ = OSError(errno, os.strerror(errno))  # makes the subclass of this number
    return failure


def fetch_placeholders(wanted: Mapping[str, str]) -> Mapping[str, Blob]:
    """In place of what is at addresses, which the upstream's answer no longer depends on."""
    return {url: Blob(b"not fetched", "image/png", None) for url in wanted}
