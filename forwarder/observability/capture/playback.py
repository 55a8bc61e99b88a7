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

_OF_THE_WIRE = frozenset(
    {"content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive"}
)
"""Headers about how an answer went over, which it does not do again."""

_FILE = {"id": "file-recorded", "object": "file", "bytes": 0, "created_at": 0,
         "filename": "recorded", "purpose": "user_data", "status": "processed"}  # fmt: skip
"""What any upload is answered with: files are not recorded."""


class Playback(httpx2.BaseTransport):
    """Gives each request the next answer of the same address, or else the next of all."""

    def __init__(self, attempts: Sequence[Json]) -> None:
        self._left = list(attempts)
        self._taking = threading.Lock()

    @property
    def left(self) -> int:
        """How many answers nobody has asked for."""
        return len(self._left)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/files"):
            return httpx2.Response(200, json=_FILE)
        attempt = self._next(request)
        answer = attempt.get("answer")
        if answer is None or "status" not in answer:
            raise _broken(attempt.get("error") or {}, request, httpx2.ConnectError)
        headers = [(k, v) for k, v in answer.get("headers", ()) if k.lower() not in _OF_THE_WIRE]
        return httpx2.Response(
            answer["status"], headers=headers, content=_said(attempt, request), request=request
        )

    def _next(self, request: httpx2.Request) -> Json:
        address = str(request.url).partition("?")[0]
        with self._taking:
            same = (a for a in self._left if a["url"] == address and _is_same(a, request))
            near = (a for a in self._left if a["url"] == address)
            for found in (*same, *near, *self._left):
                self._left.remove(found)
                return found
        raise httpx2.ConnectError("the recording has no more answers", request=request)


def _is_same(attempt: Json, request: httpx2.Request) -> bool:
    """Requests that were made at the same time may come in another order."""
    try:
        return bool(orjson.loads(request.content) == attempt["request"].get("body"))
    except (ValueError, KeyError, httpx2.RequestNotRead):
        return False


def _said(attempt: Json, request: httpx2.Request) -> Iterator[bytes]:
    yield from serialize.write(attempt["answer"])
    if "error" in attempt:
        raise _broken(attempt["error"], request, httpx2.ReadError)


def _broken(
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


def not_fetched(wanted: Mapping[str, str]) -> Mapping[str, Blob]:
    """In place of what is at addresses, which the upstream's answer no longer depends on."""
    return {url: Blob(b"not fetched", "image/png", None) for url in wanted}
