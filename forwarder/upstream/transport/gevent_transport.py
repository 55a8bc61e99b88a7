"""An httpx2 transport for the SDK, on gevent sockets and an HTTP parser in C.

The stock transport passes a body on chunk by chunk, through three layers of Python.  This one
returns all available data at once, so that events that arrive together can be translated and
written together.  It works under gevent only.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from urllib.request import getproxies

import httpx2
from gevent import socket

from forwarder.core.cancellation import is_client_waiting, register_socket, unregister_socket
from forwarder.upstream.transport.answer_limits import MAX_HEAD_BYTES
from forwarder.upstream.transport.connection_pool import (
    RECEIVE_BYTES,
    ServerConnectionPool,
    select_proxy,
)
from forwarder.upstream.transport.http_response import GeventChunkReader, HttpResponseParser
from forwarder.upstream.transport.pinned_transport import AddressLookup, create_trust_context

_STALE_SECONDS = 1.0
"""Seconds within which a connection that the server has already closed fails."""

_MIN_TIMEOUT_SECONDS = 0.001
"""Seconds to wait after the deadline, to read data that has already arrived."""

_MAX_HEAD_BYTES_RECEIVED = 2 * MAX_HEAD_BYTES
"""Bytes within which the head must be complete, with interim answers and white space."""

_CLIENT_LEFT_MESSAGE = "The client has disconnected."


class GeventTransport(httpx2.BaseTransport):
    """For ``httpx2.Client(transport=...)``; all errors are httpx2's exceptions.

    A response's ``extensions["chunk_reader"]`` is its GeventChunkReader.  Iterate it instead of the
    response to get a heartbeat (``b""``) every ``heartbeat`` seconds of silence.  ``proxies`` has
    the form of ``urllib.request.getproxies``, which is the default.  ``tls`` returns the TLS
    context, and ``lookup`` replaces the system's name look-up.  With ``resend_posts``, POST
    requests are also sent again, once, if the server closed a reused connection.
    """

    def __init__(
        self,
        *,
        max_connections: int = 10_000,
        heartbeat: float | None = None,
        proxies: Mapping[str, str] | None = None,
        tls: Callable[[], ssl.SSLContext] = create_trust_context,
        lookup: AddressLookup | None = None,
        resend_posts: bool = False,
    ) -> None:
        self._resend_posts = resend_posts
        self._size = max_connections
        self._heartbeat = heartbeat
        self._proxies = getproxies() if proxies is None else proxies
        self._tls = tls
        self._lookup = lookup
        self._pools: dict[tuple[str, bytes, int | None], ServerConnectionPool] = {}

    @property
    def opened_connections(self) -> int:
        """The number of connections opened so far."""
        return sum(pool.opened_connections for pool in self._pools.values())

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and wait for the head of its response; the body stays unread."""
        pool = self._get_pool(request.url)
        head, body = encode_head(request, pool), encode_body(request)
        data = (head, body) if len(body) > RECEIVE_BYTES else (head + body,)
        try:
            return self._send_and_receive(request, data, pool, fresh=False)
        except StaleConnection:
            if not is_client_waiting():
                raise httpx2.ReadError(_CLIENT_LEFT_MESSAGE) from None
            # Servers close idle connections, often just when the next request arrives.  A new
            # connection is never stale, so this happens at most once.
            return self._send_and_receive(request, data, pool, fresh=True)

    def close(self) -> None:
        """Close all idle connections."""
        for pool in self._pools.values():
            pool.close()

    def _get_pool(self, url: httpx2.URL) -> ServerConnectionPool:
        key = url.scheme, url.raw_host, url.port
        pool = self._pools.get(key)
        if pool is None:
            if url.scheme not in ("http", "https"):
                raise httpx2.UnsupportedProtocol(f"Not an http URL: {url.scheme}.")
            tls = self._tls() if url.scheme == "https" else None
            pool = ServerConnectionPool(
                url, select_proxy(url, self._proxies), tls, self._size, self._lookup
            )
            self._pools[key] = pool
        return pool

    def _send_and_receive(
        self,
        request: httpx2.Request,
        data: tuple[bytes, ...],
        pool: ServerConnectionPool,
        fresh: bool,
    ) -> httpx2.Response:
        timeouts = request.extensions.get("timeout", {})
        sock, used = pool.acquire(timeouts, fresh)
        message = HttpResponseParser(request.method)
        cut = register_socket(sock)
        try:
            if not is_client_waiting():  # connecting may have taken long
                raise httpx2.ReadError(_CLIENT_LEFT_MESSAGE)
            send_data(sock, data, timeouts.get("write"))
            resends = used and self._can_resend(request)
            receive_head(sock, message, resends, timeouts.get("read"))
        except BaseException:
            pool.release_socket(sock)
            raise
        finally:
            unregister_socket(cut)
        chunk_reader = GeventChunkReader(message, sock, pool, timeouts.get("read"), self._heartbeat)
        response = httpx2.Response(
            message.status_code,
            headers=[(k.encode("latin-1"), v.encode("latin-1")) for k, v in message.headers],
            stream=ResponseBody(chunk_reader),
            extensions={"http_version": message.version.encode(), "chunk_reader": chunk_reader},
        )
        response.headers.encoding = "latin-1"  # httpx2 would decode all headers to detect it
        return response

    def _can_resend(self, request: httpx2.Request) -> bool:
        """Return whether a request may be sent twice.

        The server closed the connection without a response, but may have read the request.  A
        second POST could be billed again.
        """
        return self._resend_posts or request.method != "POST"


class ResponseBody(httpx2.SyncByteStream):
    """The body for httpx2 and the SDK, without heartbeats: silence raises ReadTimeout."""

    def __init__(self, chunk_reader: GeventChunkReader) -> None:
        self._chunk_reader = chunk_reader

    def __iter__(self) -> Iterator[bytes]:
        self._chunk_reader.heartbeat = None
        return iter(self._chunk_reader)

    def close(self) -> None:
        self._chunk_reader.close()


class StaleConnection(Exception):
    """A reused connection was already closed: it failed at once, before any response byte."""


def encode_head(request: httpx2.Request, pool: ServerConnectionPool) -> bytes:
    url = request.url
    target = b"%b://%b" % (url.raw_scheme, url.netloc) if pool.uses_absolute_urls else b""
    lines = [b"%b %b%b HTTP/1.1" % (request.method.encode(), target, url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    if pool.uses_absolute_urls and pool.credentials:
        lines.append(b"Proxy-Authorization: Basic " + base64.b64encode(pool.credentials.encode()))
    head = b"\r\n".join(lines)
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or b"\0" in head:
        raise httpx2.LocalProtocolError("A header contains a line break.")
    return head + b"\r\n\r\n"


def encode_body(request: httpx2.Request) -> bytes:
    body = request.read()
    if b"transfer-encoding" not in {name.lower() for name, _ in request.headers.raw}:
        return body
    return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


def send_data(sock: socket.socket, data: tuple[bytes, ...], seconds: float | None) -> None:
    sock.settimeout(seconds)
    try:
        for piece in data:  # large ones are not copied
            sock.sendall(piece)
    except TimeoutError as error:
        raise httpx2.WriteTimeout(str(error)) from error
    except OSError:
        # A server may refuse a request before reading all of it.  Reading its answer, or finding
        # none, gives a better error than this one.
        pass


def receive_head(
    sock: socket.socket, message: HttpResponseParser, resends: bool, seconds: float | None
) -> None:
    """Receive until the head is complete, within ``seconds`` in total.

    With ``resends``, raises StaleConnection if the connection turns out to be closed.
    """
    started_at = monotonic()
    received = 0
    while not message.has_head:
        try:
            if seconds is not None:
                sock.settimeout(max(started_at + seconds - monotonic(), _MIN_TIMEOUT_SECONDS))
            data = sock.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("No answer in time.") from error
        except OSError as error:
            stale = resends and monotonic() - started_at < _STALE_SECONDS
            raise StaleConnection if stale else httpx2.ReadError(str(error)) from error
        if not data:
            stale = resends and monotonic() - started_at < _STALE_SECONDS
            raise (
                StaleConnection
                if stale
                else httpx2.RemoteProtocolError("Closed without a response.")
            )
        message.parse(data)
        received += len(data)
        if received > _MAX_HEAD_BYTES_RECEIVED and not message.has_head:
            raise httpx2.RemoteProtocolError("Not a valid response: its head is too large.")
        resends = False
