"""One session with an MCP server, in the event loop of `asyncio_thread.py`.

A task of its own opens the session and closes it, because the SDK's scopes belong to one task.
Operations run in the tasks of their callers. A session that has broken is opened anew by the next
operation. A server that refuses streamable HTTP is tried with the older SSE transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

import anyio

from forwarder import __version__
from forwarder.core.errors import shorten_value
from forwarder.hosted_tools.mcp_content import (
    MAX_TOOLS_BYTES,
    McpTool,
    ToolResult,
    convert_result,
    convert_tool,
    measure_tools,
)
from forwarder.hosted_tools.mcp_http import (
    AddressResolver,
    HttpOutcome,
    describe_status,
    make_http_client,
    record_http_outcome,
)
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.mcp_stdio import open_stdio

if TYPE_CHECKING:
    from mcp import Client, MCPError

T = TypeVar("T")

MAX_PAGES = 32
"""Maximum number of pages of a list of tools."""

CLOSE_SECONDS = 3.0
"""Seconds that a session has to close; after it, its task is cancelled."""

CONNECTION_CLOSED = -32000
REQUEST_TIMEOUT = -32001
HEADER_MISMATCH = -32020
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

_OLD_TRANSPORT_STATUSES = frozenset({400, 404, 405, 406, 415, 501})
"""Statuses with which servers of the SSE transport refuse streamable HTTP."""

_STATUS_MESSAGES = ("Server returned an error response", "Not Found", "Session terminated")
"""Messages of the SDK's errors for a refusal without a JSON-RPC error."""

_CLOSED_MESSAGE = "Connection closed"
"""The message of the SDK's error for a closed connection."""


class McpFailure(Exception):
    """An operation failed; ``kind`` and ``code`` are those of an ``mcp_call`` item's error."""

    def __init__(self, kind: str, code: int, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message


class SessionLimits(NamedTuple):
    """``max_response`` limits each response of a server in bytes, ``silence`` is in seconds."""

    max_response: int = 2**24
    silence: float = 120.0


class McpSession:
    """A session that is opened by its first operation."""

    def __init__(self, server: McpServer, resolver: AddressResolver, limits: SessionLimits) -> None:
        self.server = server
        self._resolver = resolver
        self._limits = limits
        self._serving: asyncio.Task[None] | None = None
        self._all_serving: set[asyncio.Task[None]] = set()
        self._is_broken = False
        self._ready: asyncio.Future[Client] | None = None
        self._closing = asyncio.Event()
        self._transport = "http"

    async def list_tools(self) -> list[McpTool]:
        """Return the server's tools. Raises McpFailure."""
        return await self._run(self._read_tools)

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool. Raises McpFailure if the call could not be made or has no valid result."""
        result: ToolResult = await self._run(
            lambda client: self._send_call(client, name, arguments)
        )
        return hide_result_secrets(result, self.server)

    async def close(self) -> None:
        """Close the session: notify the server, or end its command."""
        self._closing.set()
        for _ in range(2):
            if self._all_serving:
                _, open_ = await asyncio.wait(self._all_serving, timeout=CLOSE_SECONDS)
                for task in open_:
                    task.cancel()

    # -- operations -----------------------------------------------------------------------------

    async def _run(self, operation: Callable[[Client], Awaitable[T]]) -> T:
        """Run an operation in the open session. Raises McpFailure."""
        client, serving = await self._get_client()
        with record_http_outcome() as outcome:
            task = asyncio.ensure_future(operation(client))
            try:
                await asyncio.wait({task, serving}, return_when=asyncio.FIRST_COMPLETED)
                # If the session has broken, the SDK ends its operations right afterwards.
                await asyncio.wait({task}, timeout=CLOSE_SECONDS)
                if not task.done():
                    raise self._convert_error(ConnectionError(), outcome)
                return task.result()
            except Exception as error:
                failure = self._convert_error(error, outcome)
                if failure.code == CONNECTION_CLOSED and not self._is_answer_of_command(error):
                    self._is_broken = True
                raise failure from error
            finally:
                if not task.done():
                    await end_task(task)

    async def _read_tools(self, client: Client) -> list[McpTool]:
        tools: list[McpTool] = []
        cursor: str | None = None
        size = 0
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            found = [
                convert_tool(tool.model_dump(mode="json", by_alias=True, exclude_none=True))
                for tool in page.tools
            ]
            size += measure_tools(found)
            if size > MAX_TOOLS_BYTES:
                break
            tools += found
            cursor = page.next_cursor
            if not cursor:
                return tools
        raise self._make_failure(INTERNAL_ERROR, "its list of tools is too long")

    async def _send_call(self, client: Client, name: str, arguments: dict[str, Any]) -> ToolResult:
        from mcp import MCPError
        from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult

        # Not `Client.call_tool`: it lists the tools again to validate results against schemas.
        params = CallToolRequestParams(name=name, arguments=arguments)
        request = CallToolRequest(params=params)
        try:
            result = await client.session.send_request(request, CallToolResult)
        except MCPError as error:
            if error.code != HEADER_MISMATCH:
                raise
            # The server requires arguments in headers too. The list of tools names these headers.
            await self._read_tools(client)
            result = await client.session.send_request(request, CallToolResult)
        return convert_result(result.model_dump(mode="json", by_alias=True, exclude_none=True))

    # -- opening --------------------------------------------------------------------------------

    async def _get_client(self) -> tuple[Client, asyncio.Task[None]]:
        """Return the open session and the task that keeps it open. Raises McpFailure."""
        serving, ready = self._serving, self._ready
        if serving is None or ready is None or serving.done() or self._is_broken:
            self._is_broken = False
            ready = self._ready = asyncio.get_running_loop().create_future()
            serving = self._serving = asyncio.create_task(self._serve(ready))
            # A broken session stays until `close`: other operations may still be running in it.
            self._all_serving.add(serving)
            serving.add_done_callback(self._all_serving.discard)
        # Shielded, because other operations may wait for the same session.
        return await asyncio.shield(ready), serving

    async def _serve(self, ready: asyncio.Future[Client]) -> None:
        """Open the session, keep it open until `close`, and close it."""
        with record_http_outcome() as outcome:
            try:
                await self._try_transports(ready, outcome)
            except asyncio.CancelledError:
                ready.cancel()
                raise
            except Exception as error:
                if not ready.done():
                    ready.set_exception(self._convert_error(error, outcome))
                    ready.exception()  # the caller may be gone

    async def _try_transports(self, ready: asyncio.Future[Client], outcome: HttpOutcome) -> None:
        try:
            await self._keep_open(ready)
        except Exception:
            is_refused = outcome.status in _OLD_TRANSPORT_STATUSES and not ready.done()
            if not is_refused or self._transport != "http" or self.server.url is None:
                raise
            first = HttpOutcome(outcome.status, outcome.reason)
            self._transport = "sse"
            try:
                await self._keep_open(ready)
            except Exception:
                if not ready.done():  # neither transport works: the first refusal says more
                    self._transport = "http"
                    outcome.status, outcome.reason = first.status, first.reason
                raise

    async def _keep_open(self, ready: asyncio.Future[Client]) -> None:
        from mcp import Client
        from mcp_types import Implementation

        info = Implementation(name="responses-forwarder", version=__version__)
        transport = self._open_transport()
        async with Client(transport, client_info=info, cache=None) as client:
            ready.set_result(client)
            await self._closing.wait()

    def _open_transport(self) -> AbstractAsyncContextManager[Any]:
        server = self.server
        if server.url is None:
            return open_stdio(server, self._limits.max_response)
        if self._transport == "sse":
            return open_sse(server, self._resolver, self._limits)
        return open_streamable_http(server, self._resolver, self._limits)

    # -- failures -------------------------------------------------------------------------------

    def _convert_error(self, error: BaseException, outcome: HttpOutcome) -> McpFailure:
        """Return the failure to report. It contains no text of a library's exception."""
        error = find_cause(error)
        if isinstance(error, McpFailure):
            return error
        if is_servers_error(error, outcome):
            text = self.server.hide_secrets(shorten_value(error.message))
            return McpFailure("mcp_protocol_error", error.code, text)
        if outcome.reason is None and outcome.status is not None:
            reason = f"its server answered {describe_status(outcome.status)}"
            return self._make_failure(outcome.status, reason, "http_error")
        if outcome.reason is not None:
            return self._make_failure(CONNECTION_CLOSED, outcome.reason)
        if isinstance(error, TimeoutError):
            return self._make_failure(REQUEST_TIMEOUT, "it took too long")
        if isinstance(error, ValueError | TypeError):
            return self._make_failure(INTERNAL_ERROR, "it sent an invalid answer")
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
            return self._make_failure(CONNECTION_CLOSED, "its command cannot be started")
        return self._make_failure(CONNECTION_CLOSED, "the connection to it was closed")

    def _is_answer_of_command(self, error: BaseException) -> bool:
        """Return whether the server's command has sent this error, so its session is still open.

        Servers use the code of a closed connection for errors of their own.
        """
        from mcp import MCPError

        error = find_cause(error)
        is_answer = isinstance(error, MCPError) and error.message != _CLOSED_MESSAGE
        return self.server.url is None and is_answer

    def _make_failure(self, code: int, reason: str, kind: str = "mcp_protocol_error") -> McpFailure:
        message = f"The MCP server '{self.server.label}' cannot be used: {reason}."
        return McpFailure(kind, code, message)


def hide_result_secrets(result: ToolResult, server: McpServer) -> ToolResult:
    """Return a result without the server's secrets, which it may repeat."""
    parts = [
        {**part, "text": server.hide_secrets(part["text"])} if "text" in part else part
        for part in result.parts
    ]
    structured = hide_value_secrets(result.structured, server)
    return result._replace(
        parts=parts, text=server.hide_secrets(result.text), structured=structured
    )


def hide_value_secrets(value: Any, server: McpServer) -> Any:
    """Return a JSON value without the server's secrets."""
    if isinstance(value, str):
        return server.hide_secrets(value)
    if isinstance(value, list):
        return [hide_value_secrets(each, server) for each in value]
    if isinstance(value, dict):
        return {name: hide_value_secrets(each, server) for name, each in value.items()}
    return value


async def end_task(task: asyncio.Future[Any]) -> None:
    """Cancel an operation and let it notify the server, even if the caller is cancelled too."""
    task.cancel()
    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
        await asyncio.wait({task})


def is_servers_error(error: BaseException, outcome: HttpOutcome) -> TypeGuard[MCPError]:
    """Return whether the server has sent this error, and not the SDK for a failed connection."""
    from mcp import MCPError

    if not isinstance(error, MCPError) or error.message in _STATUS_MESSAGES:
        return False
    return outcome.reason is None or error.code != CONNECTION_CLOSED


def find_cause(error: BaseException) -> BaseException:
    """Return the first exception of nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def open_streamable_http(
    server: McpServer, resolver: AddressResolver, limits: SessionLimits
) -> AsyncIterator[Any]:
    from mcp.client.streamable_http import streamable_http_client

    assert server.url is not None
    client = make_http_client(server.headers, resolver, limits.max_response, limits.silence)
    async with (
        client,
        streamable_http_client(
            server.url, http_client=client, max_sse_event_size=limits.max_response
        ) as streams,
    ):
        yield streams


@asynccontextmanager
async def open_sse(
    server: McpServer, resolver: AddressResolver, limits: SessionLimits
) -> AsyncIterator[Any]:
    from mcp.client.sse import sse_client

    def make_client(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
        return make_http_client(server.headers, resolver, limits.max_response, limits.silence)

    assert server.url is not None
    async with sse_client(server.url, httpx_client_factory=make_client) as streams:
        yield streams
