"""HTTP of the MCP client: addresses that the guard allows, responses of bounded size.

`make_http_client` makes the httpx2 client that the MCP SDK uses. It uses no proxy and follows no
redirects; the SDK follows only those within the server's origin. `HttpOutcome` records the facts
that the SDK's exceptions lack: the status of a refusal and why a connection failed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPStatus
from typing import Any
from weakref import WeakValueDictionary

import anyio
import httpcore2
import httpx2

from forwarder.hosted_tools.asyncio_thread import run_in_native_thread

AddressLookup = Callable[[str, int], Iterable[tuple[int, Any]]]
"""Host and port -> socket families and addresses to connect to; it may block."""

MAX_LOOKUPS = 8
"""Name look-ups that run at the same time, each in a native thread."""

CONNECT_SECONDS = 10.0


@dataclass
class HttpOutcome:
    """The failures in the HTTP exchanges of one operation.

    ``status`` is the status of the latest refusal, ``reason`` the reason of the latest failure in
    words for the client, which reveal nothing about the forwarder's network.
    """

    status: int | None = None
    reason: str | None = None

    @property
    def message(self) -> str | None:
        """The failure in a sentence; ``None`` if no exchange failed."""
        if self.reason is not None:
            return self.reason
        return (
            None if self.status is None else f"its server answered {describe_status(self.status)}"
        )


_outcome: ContextVar[HttpOutcome | None] = ContextVar("http_outcome", default=None)


@contextmanager
def record_http_outcome() -> Iterator[HttpOutcome]:
    """Context manager: record the failures of the exchanges inside it in an `HttpOutcome`."""
    outcome = HttpOutcome()
    token = _outcome.set(outcome)
    try:
        yield outcome
    finally:
        _outcome.reset(token)


def describe_status(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def record_reason(reason: str) -> None:
    outcome = _outcome.get()
    if outcome is not None:
        outcome.reason = reason


def make_http_client(
    headers: Mapping[str, str], resolver: AddressResolver, max_bytes: int, seconds: float
) -> httpx2.AsyncClient:
    """Return a client that sends ``headers``.

    ``max_bytes`` limits each response, ``seconds`` the silence while a response is awaited or read.
    """
    return httpx2.AsyncClient(
        headers={"Accept-Encoding": "identity", "User-Agent": "forwarder", **headers},
        timeout=httpx2.Timeout(seconds, connect=CONNECT_SECONDS),
        transport=GuardedTransport(resolver, max_bytes),
        trust_env=False,
        follow_redirects=False,
    )


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects to the addresses of ``resolver``, and limits the size of responses."""

    def __init__(self, resolver: AddressResolver, max_bytes: int) -> None:
        super().__init__(verify=get_tls_context(), trust_env=False)
        self._max_bytes = max_bytes
        # Only the pool, not the transport, has a parameter for the network backend.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=get_tls_context(), network_backend=GuardedBackend(resolver)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises httpx2.TransportError and records its reason."""
        try:
            response = await super().handle_async_request(request)
        except httpx2.TimeoutException:
            record_reason("its server took too long")
            raise
        except httpx2.TransportError:
            outcome = _outcome.get()
            if outcome is not None and outcome.reason is None:
                outcome.reason = "the connection to its server failed"
            raise
        outcome = _outcome.get()
        if outcome is not None and response.status_code >= 300:
            outcome.status = response.status_code
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            record_reason("its server sent a compressed response")
            raise httpx2.RemoteProtocolError("compressed response", request=request)
        response.stream = LimitedStream(response.stream, self._max_bytes)
        return response


class LimitedStream(httpx2.AsyncByteStream):
    """The body of a response; reading raises httpx2.ReadError after ``max_bytes``."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                record_reason("its server's response is too large")
                raise httpx2.ReadError("response too large")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class AddressResolver:
    """Looks host names up in native threads, at most `MAX_LOOKUPS` at the same time."""

    def __init__(self, lookup: AddressLookup) -> None:
        self._lookup = lookup
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)
        self._share = asyncio.Semaphore(MAX_LOOKUPS)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def limit_to_share(self, client: str) -> AddressResolver:
        """Return a resolver with the same slots, of which ``client`` gets a quarter.

        A client can choose names with slow name servers.
        """
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = asyncio.Semaphore(max(1, MAX_LOOKUPS // 4))
        limited = copy(self)
        limited._share = share
        return limited

    async def resolve(self, host: str, port: int) -> list[tuple[int, Any]]:
        """Return the addresses of a host; empty if it is unknown or not allowed."""
        await self._share.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            self._share.release()
            raise
        try:  # a look-up that takes too long is abandoned, but keeps its slot until it has ended
            look_up = partial(self._lookup, host, port)
            return list(await run_in_native_thread(lambda: list(look_up()), self._release_slot))
        except (OSError, UnicodeError):
            return []

    def _release_slot(self) -> None:
        self._slots.release()
        self._share.release()


class GuardedBackend(httpcore2.AnyIOBackend):
    """Connects to the addresses of a resolver, without another look-up."""

    def __init__(self, resolver: AddressResolver) -> None:
        self._resolver = resolver

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                addresses = await self._resolver.resolve(host, port)
        except TimeoutError:
            record_reason("the name of its host could not be looked up in time")
            raise httpcore2.ConnectTimeout("name look-up") from None
        failure: Exception = httpcore2.ConnectError("no address")
        for _, address in addresses:
            try:
                return await super().connect_tcp(address[0], port, timeout, *args, **kwargs)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        if addresses:
            record_reason("its host cannot be reached")
        else:
            record_reason("its host has no address that may be connected to")
        raise failure


@cache
def get_tls_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context()
