"""The SDK's stock transport, for threads, where somebody says to which addresses it may connect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
import httpx2

AddressLookup = Callable[[str, int], Iterable[tuple[int, Any]]]
"""Host and port -> the socket families and addresses to connect to, none where it is forbidden.

Raises OSError or UnicodeError for a name that cannot be resolved."""


NO_ADDRESS_MESSAGE = "No address that may be connected to."
"""The message of a ConnectError where a look-up gives nothing."""


class PinnedTransport(httpx2.HTTPTransport):
    """Looks each name up once, and connects to what that gives."""

    def __init__(self, lookup: AddressLookup) -> None:
        super().__init__()
        # The transport has no parameter for its network, its pool has.
        self._pool: Any = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(), network_backend=PinnedNetworkBackend(lookup)
        )

    def close(self) -> None:
        """Close what is idle; an answer that is being read goes on, and its connection with it."""
        if all(connection.is_idle() for connection in self._pool.connections):
            super().close()


class PinnedNetworkBackend(httpcore2.NetworkBackend):
    def __init__(self, lookup: AddressLookup) -> None:
        self._lookup = lookup
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(self, host: str, port: int, *given: Any, **more: Any) -> Any:
        failure: Exception = httpcore2.ConnectError(NO_ADDRESS_MESSAGE)
        try:
            found = self._lookup(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(str(error)) from error
        for _, address in found:
            try:
                return self._plain.connect_tcp(address[0], port, *given, **more)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds: float) -> None:
        self._plain.sleep(seconds)
