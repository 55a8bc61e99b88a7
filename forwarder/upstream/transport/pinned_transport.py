"""The stock transport (under threads), restricted to the addresses that a look-up allows."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import httpcore2
import httpx2

AddressLookup = Callable[[str, int], Iterable[tuple[int, Any]]]
"""Host and port -> socket families and addresses to connect to; empty if none is allowed.

Raises OSError or UnicodeError if the name cannot be resolved."""


NO_ADDRESS_MESSAGE = "No address that may be connected to."
"""The message of a ConnectError if the look-up returns no address."""


@cache
def create_trust_context() -> ssl.SSLContext:
    """Return httpx2's TLS context: the system's store, or SSL_CERT_FILE and SSL_CERT_DIR."""
    return httpx2.create_ssl_context()


class PinnedTransport(httpx2.HTTPTransport):
    """Looks each name up once, and connects to the returned addresses."""

    def __init__(self, lookup: AddressLookup) -> None:
        super().__init__()
        # Only the pool, not the transport, has a parameter for the network backend.
        self._pool: Any = httpcore2.ConnectionPool(
            ssl_context=create_trust_context(), network_backend=PinnedNetworkBackend(lookup)
        )

    def close(self) -> None:
        """Close the connections unless an answer is being read; it keeps its connection."""
        if all(connection.is_idle() for connection in self._pool.connections):
            super().close()


class PinnedNetworkBackend(httpcore2.NetworkBackend):
    def __init__(self, lookup: AddressLookup) -> None:
        self._lookup = lookup
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        failure: Exception = httpcore2.ConnectError(NO_ADDRESS_MESSAGE)
        try:
            addresses = self._lookup(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(str(error)) from error
        for _, address in addresses:
            try:
                return self._plain.connect_tcp(address[0], port, *args, **kwargs)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds: float) -> None:
        self._plain.sleep(seconds)
