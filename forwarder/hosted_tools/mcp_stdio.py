"""MCP servers that are commands: JSON-RPC lines over standard input and output.

The SDK's own transport starts processes by `subprocess`, which under gevent works only in the main
thread. This one starts them by ``posix_spawn`` and uses non-blocking pipes. Only the operator can
configure commands.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from gevent import monkey

from forwarder.hosted_tools.mcp_server import McpServer

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

READ_BYTES = 2**16

EXIT_SECONDS = 2.0
"""Seconds that a process has to exit after its input was closed, and again after SIGTERM."""

POLL_SECONDS = 0.02

_CHANGE_DIRECTORY = ("/bin/sh", "-c", 'cd "$0" && exec "$@"')
"""``posix_spawn`` cannot set the directory of the new process."""

spawn_process: Callable[..., int] = monkey.get_original("os", "posix_spawnp")
wait_process: Callable[[int, int], tuple[int, int]] = monkey.get_original("os", "waitpid")


class Process(NamedTuple):
    """A running command and the descriptors of its pipes."""

    pid: int
    stdin: int
    stdout: int


def start_process(server: McpServer) -> Process:
    """Start the server's command in a process group of its own. Raises OSError."""
    from mcp.client.stdio import get_default_environment

    command = list(server.command)
    if server.directory is not None:
        command = [*_CHANGE_DIRECTORY, server.directory, *command]
    child_in, stdin = os.pipe()
    stdout, child_out = os.pipe()
    try:
        pid = spawn_process(
            command[0],
            command,
            {**get_default_environment(), **server.environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, child_in, 0), (os.POSIX_SPAWN_DUP2, child_out, 1)],
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE,),  # Python ignores it, and its children would, too
        )
    except BaseException:
        os.close(stdin)
        os.close(stdout)
        raise
    finally:
        os.close(child_in)
        os.close(child_out)
    for descriptor in (stdin, stdout):
        os.set_blocking(descriptor, False)
    return Process(pid, stdin, stdout)


@asynccontextmanager
async def open_stdio(server: McpServer, max_line: int) -> AsyncIterator[Any]:
    """Start the server's command; yields the pair of message streams that the SDK expects.

    A line longer than ``max_line`` bytes ends the session. The process and its children are ended
    when the context is left. Raises OSError if the command cannot be started.
    """
    process = start_process(server)
    incoming, read_stream = anyio.create_memory_object_stream[Any](0)
    write_stream, outgoing = anyio.create_memory_object_stream[Any](0)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_lines, process.stdout, incoming, max_line)
            tasks.start_soon(write_lines, process.stdin, outgoing, incoming)
            try:
                yield read_stream, write_stream
            finally:
                tasks.cancel_scope.cancel()
    finally:
        for stream in (read_stream, write_stream, incoming, outgoing):
            stream.close()
        with anyio.CancelScope(shield=True):
            await end_process(process)


async def read_lines(
    descriptor: int, incoming: MemoryObjectSendStream[SessionMessage | Exception], max_line: int
) -> None:
    """Pass the messages of a process on until its output ends."""
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    buffer = b""
    async with incoming:
        while data := await read_some(descriptor):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in filter(bytes.strip, lines):
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError as error:  # a line of a log, for example
                    await incoming.send(error)
                else:
                    await incoming.send(SessionMessage(message))
            if len(buffer) > max_line:
                return


async def read_some(descriptor: int) -> bytes:
    """Return the next bytes of a pipe; empty at its end."""
    while True:
        try:
            return os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)
        except OSError:
            return b""


async def write_lines(
    descriptor: int,
    outgoing: MemoryObjectReceiveStream[SessionMessage],
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    """Send messages to a process; if it no longer reads, its session ends."""
    try:
        async for message in outgoing:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            await write_all(descriptor, text.encode() + b"\n")
    except OSError:
        await incoming.aclose()


async def write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            await anyio.wait_writable(descriptor)


async def end_process(process: Process) -> None:
    """Close a process's input, and kill it with its children if it does not exit then."""
    os.close(process.stdin)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if await wait_for_exit(process.pid):
            break
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    else:
        await wait_for_exit(process.pid)
    os.close(process.stdout)


async def wait_for_exit(pid: int) -> bool:
    """Wait for a process to exit; return whether it has."""
    with anyio.move_on_after(EXIT_SECONDS):
        while not try_reap(pid):
            await anyio.sleep(POLL_SECONDS)
        return True
    return False


def try_reap(pid: int) -> bool:
    try:
        return wait_process(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:  # gevent's handler of SIGCHLD was faster
        return True
