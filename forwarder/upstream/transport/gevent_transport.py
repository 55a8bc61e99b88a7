"""The network below the SDK: an httpx2 transport of gevent sockets and a parser in C.

The stock transport hands a body over chunk by chunk, through three layers of Python.  This one
hands over whatever has arrived, at once, so that what arrives together can be translated and
written together.  It may be used under gevent only.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from urllib.request import getproxies

import httpx2
from gevent import socket

from forwarder.core.cancellation import cut_with, is_awaited, spared
from forwarder.upstream.transport.answer_limits import MAX_HEAD
from forwarder.upstream.transport.connection_pool import BLOCK, Connections, proxy_for, trust
from forwarder.upstream.transport.http_response import ArrivalStream, Message
from forwarder.upstream.transport.pinned_transport import Lookup

_STALE = 1.0
"""Seconds within which a connection that had been closed already says so."""

_LAST_MOMENT = 0.001
"""Seconds to wait when the time is over: what lies there is taken."""

_MAX_RECEIVED = 2 * MAX_HEAD
"""Bytes in which the head of an answer must have come, with interim answers and white space."""

_NOBODY = "Nobody waits for the answer any more."


class GeventTransport(httpx2.BaseTransport):
    """For ``httpx2.Client(transport=...)``; every failure is one of httpx2's exceptions.

    A response's ``extensions["arrivals"]`` is its ArrivalStream, to be iterated instead of the
    response where heartbeats are wanted: one every ``heartbeat`` seconds of silence.  ``proxies``
    is as ``urllib.request.getproxies`` gives it, which is the default; ``tls`` says whom to trust,
    ``lookup`` where to connect, instead of the system.  With ``resend_posts`` a POST too is sent
    again, once, when a kept connection was closed under it.
    """

    def __init__(
        self,
        *,
        max_connections: int = 10_000,
        heartbeat: float | None = None,
        proxies: Mapping[str, str] | None = None,
        tls: Callable[[], ssl.SSLContext] = trust,
        lookup: Lookup | None = None,
        resend_posts: bool = False,
    ) -> None:
        self._resend_posts = resend_posts
        self._size = max_connections
        self._heartbeat = heartbeat
        self._proxies = getproxies() if proxies is None else proxies
        self._tls = tls
        self._lookup = lookup
        self._pools: dict[tuple[str, bytes, int | None], Connections] = {}

    @property
    def opened(self) -> int:
        """How many connections were made so far."""
        return sum(pool.opened for pool in self._pools.values())

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and wait for the head of its response; the body is left to be read."""
        pool = self._pool(request.url)
        head, body = _head(request, pool), _body(request)
        data = (head, body) if len(body) > BLOCK else (head + body,)
        try:
            return self._exchange(request, data, pool, fresh=False)
        except _Stale:
            if not is_awaited():
                raise httpx2.ReadError(_NOBODY) from None
            # Servers close idle connections, often just as the next request comes.  A new
            # connection is never stale, so this happens once at most.
            return self._exchange(request, data, pool, fresh=True)

    def close(self) -> None:
        """Close all idle connections."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, url: httpx2.URL) -> Connections:
        key = url.scheme, url.raw_host, url.port
        pool = self._pools.get(key)
        if pool is None:
            if url.scheme not in ("http", "https"):
                raise httpx2.UnsupportedProtocol(f"Not an http URL: {url.scheme}.")
            tls = self._tls() if url.scheme == "https" else None
            pool = Connections(url, proxy_for(url, self._proxies), tls, self._size, self._lookup)
            self._pools[key] = pool
        return pool

    def _exchange(
        self, request: httpx2.Request, data: tuple[bytes, ...], pool: Connections, fresh: bool
    ) -> httpx2.Response:
        timeouts = request.extensions.get("timeout", {})
        sock, used = pool.take(timeouts, fresh)
        message = Message(request.method)
        cut = cut_with(sock)
        try:
            if not is_awaited():  # it took some time to connect
                raise httpx2.ReadError(_NOBODY)
            _send(sock, data, timeouts.get("write"))
            resends = used and self._may_resend(request)
            _await_head(sock, message, resends, timeouts.get("read"))
        except BaseException:
            pool.release_socket(sock)
            raise
        finally:
            spared(cut)
        arrivals = ArrivalStream(message, sock, pool, timeouts.get("read"), self._heartbeat)
        return httpx2.Response(
            message.status_code,
            headers=[(k.encode("latin-1"), v.encode("latin-1")) for k, v in message.headers],
            stream=_Body(arrivals),
            extensions={"http_version": message.version.encode(), "arrivals": arrivals},
        )

    def _may_resend(self, request: httpx2.Request) -> bool:
        """May a request go out twice?

        The server closed without a byte, but may have read the request; a POST costs money twice.
        """
        return self._resend_posts or request.method != "POST"


class _Body(httpx2.SyncByteStream):
    """The body for httpx2 and the SDK, which know no heartbeats: silence is a ReadTimeout."""

    def __init__(self, arrivals: ArrivalStream) -> None:
        self._arrivals = arrivals

    def __iter__(self) -> Iterator[bytes]:
        self._arrivals.heartbeat = None
        return iter(self._arrivals)

    def close(self) -> None:
        self._arrivals.close()


class _Stale(Exception):
    """A kept connection turned out to be closed, at once and before a byte of the response."""


def _head(request: httpx2.Request, pool: Connections) -> bytes:
    url = request.url
    target = b"%b://%b" % (url.raw_scheme, url.netloc) if pool.absolute else b""
    lines = [b"%b %b%b HTTP/1.1" % (request.method.encode(), target, url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    if pool.absolute and pool.credentials:
        lines.append(b"Proxy-Authorization: Basic " + base64.b64encode(pool.credentials.encode()))
    head = b"\r\n".join(lines)
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or b"\0" in head:
        raise httpx2.LocalProtocolError("A header holds a line end.")
    return head + b"\r\n\r\n"


def _body(request: httpx2.Request) -> bytes:
    body = request.read()
    if "transfer-encoding" not in request.headers:
        return body
    return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


def _send(sock: socket.socket, data: tuple[bytes, ...], seconds: float | None) -> None:
    sock.settimeout(seconds)
    try:
        for piece in data:  # large ones are not copied
            sock.sendall(piece)
    except TimeoutError as error:
        raise httpx2.WriteTimeout(str(error)) from error
    except OSError:
        # A server may refuse a request before it has read it all; the answer, or the lack of
        # one, says more than this error.
        pass


def _await_head(
    sock: socket.socket, message: Message, resends: bool, seconds: float | None
) -> None:
    """Receive until the head is there, in so many seconds for all of it.

    With ``resends`` the connection may be stale and the request may be sent again.
    """
    asked = monotonic()
    received = 0
    while not message.has_head:
        try:
            if seconds is not None:
                sock.settimeout(max(asked + seconds - monotonic(), _LAST_MOMENT))
            data = sock.recv(BLOCK)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("No answer in time.") from error
        except OSError as error:
            stale = resends and monotonic() - asked < _STALE
            raise _Stale if stale else httpx2.ReadError(str(error)) from error
        if not data:
            stale = resends and monotonic() - asked < _STALE
            raise _Stale if stale else httpx2.RemoteProtocolError("Closed without a response.")
        message.parse(data)
        received += len(data)
        if received > _MAX_RECEIVED and not message.has_head:
            raise httpx2.RemoteProtocolError("Not a valid response: its head is too large.")
        resends = False
