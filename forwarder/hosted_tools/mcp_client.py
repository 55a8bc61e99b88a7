"""The MCP client: lists and calls tools of MCP servers for greenlets.

All sessions live in one event loop in a native thread (`asyncio_thread.py`). `McpConnections` are
the sessions of one response: each server is connected to at most once, on first use, and the
sessions are closed with the response. Sessions with MCP servers that we start as commands (stdio)
outlive responses, because a command may take seconds to start; they are closed after some idle
minutes. Lists of tools are cached for each server and its credentials.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from forwarder.core.blocking_work import get_address_info
from forwarder.core.ssrf import AddressGuard, ResolvedAddress
from forwarder.hosted_tools.asyncio_thread import AsyncioThread, PendingTask, TaskCancelled
from forwarder.hosted_tools.mcp_content import McpTool, ToolResult, measure_tools
from forwarder.hosted_tools.mcp_http import AddressResolver
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.mcp_session import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    McpFailure,
    McpSession,
    SessionLimits,
)

__all__ = ["McpClient", "McpConnections", "McpFailure", "McpLimits"]

T = TypeVar("T")

MAX_CACHED_BYTES = 16 * 2**20
"""Size of the JSON of all cached lists of tools, with `ENTRY_BYTES` for each list."""

ENTRY_BYTES = 1_000
"""Approximate bytes of a list without its tools; clients can name many servers without any."""

MAX_SHARED_SESSIONS = 64
"""Maximum number of sessions with MCP servers that we start as commands (stdio)."""

SHARED_IDLE_SECONDS = 300.0
"""Seconds after which an unused session with such a server is closed."""


class McpLimits(NamedTuple):
    """Limits of the client.

    ``max_calls`` operations run at the same time. Others wait, and the wait counts towards their
    time limit.
    """

    list_seconds: float = 20.0
    call_seconds: float = 60.0
    cache_seconds: float = 300.0
    max_calls: int = 64
    sessions: SessionLimits = SessionLimits()


DEFAULT_LIMITS = McpLimits()


class CachedTools(NamedTuple):
    tools: list[McpTool]
    size: int
    expires: float


class ToolCache:
    """Lists of tools by server and credentials; the oldest are evicted first.

    Only the event loop uses it, so it needs no lock.
    """

    def __init__(self, seconds: float, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lists: OrderedDict[str, CachedTools] = OrderedDict()

    def get_tools(self, server: McpServer) -> list[McpTool] | None:
        cached = self._lists.get(server.identity)
        if cached is None or cached.expires <= time.monotonic():
            return None
        return cached.tools

    def add_tools(self, server: McpServer, tools: list[McpTool]) -> None:
        self.remove_tools(server)
        size = measure_tools(tools) + ENTRY_BYTES
        cached = CachedTools(tools, size, time.monotonic() + self._seconds)
        self._lists[server.identity] = cached
        self._bytes += cached.size
        while self._bytes > self._max_bytes:
            self._bytes -= self._lists.popitem(last=False)[1].size

    def remove_tools(self, server: McpServer) -> None:
        cached = self._lists.pop(server.identity, None)
        if cached is not None:
            self._bytes -= cached.size


class SharedSession:
    """A session with a server that runs as a command, and the timer that closes it when idle."""

    def __init__(self, session: McpSession) -> None:
        self.session = session
        self.users = 0
        self.timer: asyncio.TimerHandle | None = None


class McpClient:
    """Connects to MCP servers; one for each process.

    ``guard`` decides which addresses clients' URLs may resolve to; under gevent it must use
    `get_address_info`. The operator's servers may have any address.
    """

    def __init__(
        self,
        guard: AddressGuard,
        limits: McpLimits = DEFAULT_LIMITS,
        shared_idle: float = SHARED_IDLE_SECONDS,
    ) -> None:
        silence_sdk_logs()
        self.limits = limits
        self._thread = AsyncioThread()
        self._guarded = AddressResolver(guard.find_allowed)
        self._unguarded = AddressResolver(look_up_addresses)
        self._cache = ToolCache(limits.cache_seconds)
        self._slots = asyncio.Semaphore(limits.max_calls)
        self._shared: OrderedDict[str, SharedSession] = OrderedDict()
        self._shared_idle = shared_idle
        self._closing: set[asyncio.Task[None]] = set()

    def open_connections(self, client: str = "") -> McpConnections:
        """Return the connections of one response; the caller closes them.

        ``client`` is the response's client: each client gets a share of the name look-ups.
        """
        return McpConnections(self, client)

    def close(self) -> None:
        """Cancel all operations, close all sessions and end the thread."""
        self._thread.close()

    # -- for McpConnections ---------------------------------------------------------------------

    def start_task(
        self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float | None
    ) -> PendingTask[T]:
        return self._thread.start_task(work, seconds)

    def make_session(self, server: McpServer, client: str = "") -> McpSession:
        """Return a new session.

        Name look-ups for the operator's servers are not charged to any client.
        """
        resolver = self._unguarded if server.is_trusted else self._guarded.limit_to_share(client)
        return McpSession(server, resolver, self.limits.sessions)

    async def list_tools(self, server: McpServer, session: McpSession) -> list[McpTool]:
        """Return the server's tools, cached or listed in ``session``."""
        tools = self._cache.get_tools(server)
        if tools is None:
            async with self._slots:
                tools = await session.list_tools()
            self._cache.add_tools(server, tools)
        return tools

    async def call_tool(
        self, server: McpServer, session: McpSession, name: str, arguments: dict[str, Any]
    ) -> ToolResult:
        try:
            async with self._slots:
                return await session.call_tool(name, arguments)
        except McpFailure as failure:
            if failure.code in (METHOD_NOT_FOUND, INVALID_PARAMS):  # the tools may have changed
                self._cache.remove_tools(server)
            raise

    def borrow_session(self, server: McpServer) -> McpSession:
        """Return the shared session with a server that runs as a command.

        `return_session` gives it back.
        """
        shared = self._shared.get(server.identity)
        if shared is None:
            shared = self._shared[server.identity] = SharedSession(self.make_session(server))
            for identity in [*self._shared][: max(0, len(self._shared) - MAX_SHARED_SESSIONS)]:
                self._close_shared(identity)
        shared.users += 1
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        return shared.session

    def return_session(self, server: McpServer) -> None:
        shared = self._shared.get(server.identity)
        if shared is None:
            return
        shared.users -= 1
        if not shared.users:
            loop = asyncio.get_running_loop()
            shared.timer = loop.call_later(self._shared_idle, self._close_shared, server.identity)

    def _close_shared(self, identity: str) -> None:
        shared = self._shared.get(identity)
        if shared is None or shared.users:
            return
        del self._shared[identity]
        task = asyncio.get_running_loop().create_task(shared.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class McpConnections:
    """The sessions of one response. Its methods are called by greenlets and return at once."""

    def __init__(self, client: McpClient, account: str) -> None:
        self._client = client
        self._account = account
        self._sessions: dict[str, McpSession] = {}
        self._borrowed: dict[str, McpServer] = {}
        self._is_used = False

    def list_tools(self, server: McpServer) -> PendingTask[list[McpTool]]:
        """Start listing the tools of a server. The task raises McpFailure or TimeoutError."""
        return self._start(partial(self._list_tools, server), self._client.limits.list_seconds)

    def call_tool(
        self, server: McpServer, name: str, arguments: dict[str, Any]
    ) -> PendingTask[ToolResult]:
        """Start a call of a tool. The task raises McpFailure or TimeoutError."""
        work = partial(self._call_tool, server, name, arguments)
        return self._start(work, self._client.limits.call_seconds)

    def close(self) -> None:
        """Close the sessions; this does not wait until they are closed."""
        if self._is_used:
            self._is_used = False
            with suppress(TaskCancelled):  # the client is closed, and has closed all sessions
                self._client.start_task(self._close_sessions, None)

    def _start(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> PendingTask[T]:
        self._is_used = True
        return self._client.start_task(work, seconds)

    async def _list_tools(self, server: McpServer) -> list[McpTool]:
        return await self._client.list_tools(server, self._get_or_open_session(server))

    async def _call_tool(
        self, server: McpServer, name: str, arguments: dict[str, Any]
    ) -> ToolResult:
        session = self._get_or_open_session(server)
        return await self._client.call_tool(server, session, name, arguments)

    def _get_or_open_session(self, server: McpServer) -> McpSession:
        """Return this response's session with a server: its own, or the shared one of a command."""
        session = self._sessions.get(server.identity)
        if session is None:
            if server.url is None:
                session = self._client.borrow_session(server)
                self._borrowed[server.identity] = server
            else:
                session = self._client.make_session(server, self._account)
            self._sessions[server.identity] = session
        return session

    async def _close_sessions(self) -> None:
        for server in self._borrowed.values():
            self._client.return_session(server)
        own = [self._sessions[key] for key in self._sessions.keys() - self._borrowed.keys()]
        self._sessions, self._borrowed = {}, {}
        await asyncio.gather(*(session.close() for session in own))


def silence_sdk_logs() -> None:
    """Suppress the SDK's log records, because they quote messages, URLs and headers.

    Every operation reports its own failure.
    """
    logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)


def look_up_addresses(host: str, port: int) -> list[ResolvedAddress]:
    """Return all addresses of a host that the operator configured. Raises OSError."""
    return [(e[0], e[4]) for e in get_address_info(host, port, type=socket.SOCK_STREAM)]
