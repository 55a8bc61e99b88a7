"""Connection pool for one server, directly or through a proxy, with keep-alive.

It is built on geventhttpclient's pool, which resolves names, connects, and handles proxies.  Errors
are raised as httpx2's exceptions.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import gevent
import httpx2
from gevent import monkey, socket
from geventhttpclient.connectionpool import ConnectionPool

from forwarder.upstream.transport.pinned_transport import NO_ADDRESS_MESSAGE, AddressLookup

RECEIVE_BYTES = 2**16
"""Bytes per read from a socket."""

MAX_IDLE_SECONDS = 30.0
"""Seconds after which an idle connection is closed.  Servers and middleboxes drop idle
connections, some without notice."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

_poll: Callable[[], Any] = monkey.get_original("select", "poll")


class ServerConnectionPool(ConnectionPool):
    """The connections to the server of ``url``: at most ``size`` in use; idle ones are reused.

    ``lookup`` replaces the system's name look-up.  ``opened_connections`` counts all connections
    so far.  ``uses_absolute_urls`` means that requests must name the whole URL, because the
    connection leads to a proxy.
    """

    def __init__(
        self,
        url: httpx2.URL,
        proxy: httpx2.URL | None,
        tls: ssl.SSLContext | None,
        size: int,
        lookup: AddressLookup | None = None,
    ) -> None:
        origin = url.raw_host.decode(), url.port or _DEFAULT_PORTS[url.scheme]
        target = (proxy.raw_host.decode(), proxy.port or 80) if proxy else origin
        super().__init__(*target, *origin, size)
        # Each request sets its own time-outs, so the sockets of the pool have none.
        self.connection_timeout = self.network_timeout = None  # type: ignore[assignment]
        self.opened_connections = 0
        self.uses_absolute_urls = proxy is not None and tls is None
        self.receive = receive_plain if tls is None else receive_tls
        self._tls = tls
        self._lookup = lookup
        self._use_proxy = proxy is not None
        if proxy and proxy.userinfo:
            self._proxy_credentials = f"{proxy.username}:{proxy.password}"
        self._idle_sockets: deque[tuple[float, socket.socket]] = deque()
        self._prune_timer: Any = None

    @property
    def credentials(self) -> str | None:
        """``user:password`` for the proxy."""
        return self._proxy_credentials

    def acquire(
        self, timeouts: Mapping[str, float | None], fresh: bool
    ) -> tuple[socket.socket, bool]:
        """Return a connection, and whether it was used before; ``fresh`` demands a new one.

        The time-out ``connect`` limits name look-up, connecting and handshake together, in
        seconds; ``pool`` limits the wait for a free connection.  Raises PoolTimeout,
        ConnectTimeout, ConnectError or ProxyError.
        """
        if not self._semaphore.acquire(timeout=timeouts.get("pool")):
            raise httpx2.PoolTimeout("Too many connections are in use.")
        try:
            idle = None if fresh else self._take_idle()
            return (idle, True) if idle else (self._open_connection(timeouts.get("connect")), False)
        except BaseException:
            self._semaphore.release()
            raise

    def return_socket(self, sock: socket.socket) -> None:
        """Keep a connection for the next request."""
        if self._closed:
            sock.close()
            return
        self._idle_sockets.append((time.monotonic(), sock))
        self._semaphore.release()
        if self._prune_timer is None:
            self._schedule_prune()

    def close(self) -> None:
        """Close idle connections; those in use are closed when they are returned."""
        self._closed = True
        if self._prune_timer is not None:
            self._prune_timer.close()
            self._prune_timer = None
        while self._idle_sockets:
            self._idle_sockets.pop()[1].close()

    def _schedule_prune(self) -> None:
        """Start the pool's timer that closes idle connections even without further requests.

        The timer runs while there are idle connections; it does not keep the process alive.
        """
        seconds = self._idle_sockets[0][0] + MAX_IDLE_SECONDS - time.monotonic()
        self._prune_timer = gevent.get_hub().loop.timer(max(seconds, 0.001), ref=False)
        self._prune_timer.start(self._close_expired)

    def _close_expired(self) -> None:
        self._prune_timer.close()
        self._prune_timer = None
        while (
            self._idle_sockets and self._idle_sockets[0][0] <= time.monotonic() - MAX_IDLE_SECONDS
        ):
            self._idle_sockets.popleft()[1].close()
        if self._idle_sockets:
            self._schedule_prune()

    def after_connect(self, sock: socket.socket) -> None:
        """Called by the pool for every new connection."""
        self.opened_connections += 1

    def _take_idle(self) -> socket.socket | None:
        while self._idle_sockets:
            since, sock = self._idle_sockets.pop()
            if since > time.monotonic() - MAX_IDLE_SECONDS and is_socket_idle(sock):
                return sock
            sock.close()
        return None

    def _open_connection(self, seconds: float | None) -> socket.socket:
        try:
            with gevent.Timeout(seconds, httpx2.ConnectTimeout("No connection in time.")):
                return self._create_socket()
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(str(error)) from error
        except RuntimeError as error:  # geventhttpclient raises it if a proxy refuses
            raise httpx2.ProxyError(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpx2.ConnectError(str(error)) from error

    def _resolve(self) -> list[Any]:
        if self._lookup is None:
            return super()._resolve()
        resolved = self._lookup(self._connection_host, self._connection_port)
        kind, protocol = socket.SOCK_STREAM, socket.IPPROTO_TCP
        addresses = [(family, kind, protocol, "", address) for family, address in resolved]
        if not addresses:
            raise httpx2.ConnectError(NO_ADDRESS_MESSAGE)
        return addresses

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> socket.socket:
        sock = socket.socket(family, socktype, protocol)
        # With Nagle's algorithm the end of a long request would wait for an acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _connect_socket(self, sock: socket.socket, address: Any) -> socket.socket:
        sock.connect(address)
        if self._tls is None:
            return sock
        if self._use_proxy:
            self._setup_proxy(sock)
        tls = self._tls.wrap_socket(
            sock, server_hostname=self._request_host, do_handshake_on_connect=False
        )
        try:
            tls.do_handshake()
        except BaseException:  # time-outs must close the socket too
            tls.close()
            raise
        return tls


def select_proxy(url: httpx2.URL, proxies: Mapping[str, str]) -> httpx2.URL | None:
    """Return the proxy for ``url``; ``proxies`` has the form of ``urllib.request.getproxies``."""
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or any(is_exempt(rule, url.host) for rule in proxies.get("no", "").split(",")):
        return None
    proxy_url = httpx2.URL(proxy if "://" in proxy else f"http://{proxy}")
    if proxy_url.scheme != "http":
        raise httpx2.UnsupportedProtocol(f"Proxies of kind '{proxy_url.scheme}' are not supported.")
    return proxy_url


def is_exempt(rule: str, host: str) -> bool:
    """Return whether an entry of NO_PROXY (domain, address, network or ``*``) exempts ``host``."""
    rule = rule.strip().strip("[]").lower()
    if rule in ("", "*"):
        return bool(rule)
    try:
        return ip_address(host) in ip_network(rule, strict=False)
    except ValueError:
        return f".{host}".endswith("." + rule.lstrip("*."))


def is_socket_idle(sock: socket.socket) -> bool:
    """Return whether a connection can be reused: it is open, and there is nothing to read."""
    poll = _poll()  # unlike select, it supports file descriptors above 1023
    poll.register(sock.fileno(), 1)
    return not poll.poll(0)


def receive_plain(sock: socket.socket) -> bytes:
    data: bytes = sock.recv(RECEIVE_BYTES)
    return data


def receive_tls(sock: socket.socket) -> bytes:
    """Read all TLS records that have arrived; a read returns one record, often a single event."""
    pieces = [sock.recv(RECEIVE_BYTES)]
    size, patience = len(pieces[0]), sock.gettimeout()
    sock.settimeout(0.0)
    try:
        while pieces[-1] and size < RECEIVE_BYTES:
            pieces.append(sock.recv(RECEIVE_BYTES))
            size += len(pieces[-1])
    except OSError:  # no more data now; a real error will occur again
        pass
    finally:
        sock.settimeout(patience)
    return b"".join(pieces)
