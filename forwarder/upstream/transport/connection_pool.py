"""Connections to one server: opened directly or through a proxy, and kept while they are good.

Built on geventhttpclient's pool, which resolves, connects and speaks to proxies.  Failures leave
as httpx2's exceptions.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

import gevent
import httpx2
from gevent import monkey, socket
from geventhttpclient.connectionpool import ConnectionPool

from forwarder.upstream.transport.pinned_transport import NO_ADDRESS_MESSAGE, AddressLookup

RECEIVE_BYTES = 2**16
"""Bytes taken from a socket at once."""

MAX_IDLE_SECONDS = 30.0
"""How long a connection is kept unused.  Servers and the middle boxes on the way to them forget
idle connections, some without a word."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

_poll: Callable[[], Any] = monkey.get_original("select", "poll")


class ServerConnectionPool(ConnectionPool):
    """The connections to the server of ``url``: at most ``size`` in use, idle ones kept.

    ``lookup`` says where to connect, instead of the system.
    ``opened_connections`` counts the connections ever made.  ``uses_absolute_urls`` tells whether a request names the
    whole URL, since the connection leads to a proxy.
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
        # Limits are set by request, and a socket of the pool knows none of its own.
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
        """A connection, and whether it was used before; ``fresh`` demands a new one.

        ``connect`` limits, in seconds, name look-up, connecting and handshake together; ``pool``
        the wait for a place.  Raises PoolTimeout, ConnectTimeout, ConnectError or ProxyError.
        """
        if not self._semaphore.acquire(timeout=timeouts.get("pool")):
            raise httpx2.PoolTimeout("Too many connections are in use.")
        try:
            kept = None if fresh else self._take_idle()
            return (kept, True) if kept else (self._open_connection(timeouts.get("connect")), False)
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
        """Close what is kept; what is in use closes when it is returned."""
        self._closed = True
        if self._prune_timer is not None:
            self._prune_timer.close()
            self._prune_timer = None
        while self._idle_sockets:
            self._idle_sockets.pop()[1].close()

    def _schedule_prune(self) -> None:
        """Have idle connections closed in time, whether or not there are further requests.

        One timer for the pool, as long as something is kept; it keeps no process alive.
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
        except RuntimeError as error:  # what the pool makes of a proxy's refusal
            raise httpx2.ProxyError(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpx2.ConnectError(str(error)) from error

    def _resolve(self) -> list[Any]:
        if self._lookup is None:
            return super()._resolve()
        found = self._lookup(self._connection_host, self._connection_port)
        kind, protocol = socket.SOCK_STREAM, socket.IPPROTO_TCP
        addresses = [(family, kind, protocol, "", address) for family, address in found]
        if not addresses:
            raise httpx2.ConnectError(NO_ADDRESS_MESSAGE)
        return addresses

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> socket.socket:
        sock = socket.socket(family, socktype, protocol)
        # The end of a long request would wait for the acknowledgement of its beginning.
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
        except BaseException:  # a time-out too must not leave the socket open
            tls.close()
            raise
        return tls


@cache
def create_trust_context() -> ssl.SSLContext:
    """Whom to trust, as httpx2 decides: the system's store, or SSL_CERT_FILE and SSL_CERT_DIR."""
    return httpx2.create_ssl_context()


def select_proxy(url: httpx2.URL, proxies: Mapping[str, str]) -> httpx2.URL | None:
    """The proxy on the way to ``url``; ``proxies`` is as ``urllib.request.getproxies`` gives it."""
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or any(is_exempt(rule, url.host) for rule in proxies.get("no", "").split(",")):
        return None
    found = httpx2.URL(proxy if "://" in proxy else f"http://{proxy}")
    if found.scheme != "http":
        raise httpx2.UnsupportedProtocol(f"Proxies of kind '{found.scheme}' are not supported.")
    return found


def is_exempt(rule: str, host: str) -> bool:
    """Does an entry of NO_PROXY (a domain, address, network or ``*``) exempt ``host``?"""
    rule = rule.strip().strip("[]").lower()
    if rule in ("", "*"):
        return bool(rule)
    try:
        return ip_address(host) in ip_network(rule, strict=False)
    except ValueError:
        return f".{host}".endswith("." + rule.lstrip("*."))


def is_socket_idle(sock: socket.socket) -> bool:
    """Whatever there is to read on an idle connection, its end or a stray message, spoils it."""
    poll = _poll()  # unlike select, it takes file numbers above 1023
    poll.register(sock.fileno(), 1)
    return not poll.poll(0)


def receive_plain(sock: socket.socket) -> bytes:
    data: bytes = sock.recv(RECEIVE_BYTES)
    return data


def receive_tls(sock: socket.socket) -> bytes:
    """TLS gives one record at a time, and servers make one of each event: take all there are."""
    pieces = [sock.recv(RECEIVE_BYTES)]
    size, patience = len(pieces[0]), sock.gettimeout()
    sock.settimeout(0.0)
    try:
        while pieces[-1] and size < RECEIVE_BYTES:
            pieces.append(sock.recv(RECEIVE_BYTES))
            size += len(pieces[-1])
    except OSError:  # there is no more for now; anything worse will be met again
        pass
    finally:
        sock.settimeout(patience)
    return b"".join(pieces)
