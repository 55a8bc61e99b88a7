"""An MCP server built with the official SDK, in a process of its own on loopback.

``python -m tests.hosted_tools.mcp_server_process`` prints the port and serves until its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TOKEN = "sesame-4711"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@contextmanager
def serving_mcp(*options: str) -> Iterator[str]:
    """Run a server with these options; yields its base URL without a trailing slash."""
    command = [sys.executable, "-m", "tests.hosted_tools.mcp_server_process", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def make_server(protected: bool) -> Any:
    from mcp import MCPError
    from mcp.server.auth.provider import AccessToken
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.utilities.types import Image
    from mcp_types import ToolAnnotations
    from pydantic import AnyHttpUrl

    class Verifier:
        async def verify_token(self, token: str) -> AccessToken | None:
            return AccessToken(token=token, client_id="c", scopes=[]) if token == TOKEN else None

    auth: dict[str, Any] = {}
    if protected:
        settings = AuthSettings(
            issuer_url=AnyHttpUrl("http://issuer.test"), resource_server_url=None
        )
        auth = {"auth": settings, "token_verifier": Verifier()}
    server = MCPServer("tests", log_level="ERROR", **auth)
    notes: list[str] = []

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def echo(text: str) -> str:
        """Say a text again."""
        return text

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(structured_output=False)
    def picture() -> list[Any]:
        """A picture and a caption."""
        return ["a pixel", Image(data=PIXEL, format="png")]

    @server.tool(structured_output=False)
    def run(source: str, timeout: int = 5) -> list[Any]:
        """Run Python."""
        if source == "draw()":
            return ["drawn", Image(data=PIXEL, format="png")]
        return [f"ran {source}"]

    @server.tool()
    def fail() -> str:
        """Always fails."""
        raise ToolError("the disk is full")

    @server.tool()
    def refuse() -> str:
        """Fails with an error of the protocol."""
        raise MCPError(code=-32000, message="the quota is used up")

    @server.tool()
    async def hang(seconds: float = 60) -> str:
        """Takes long."""
        notes.append("hang started")
        try:
            await asyncio.sleep(seconds)
        except BaseException:
            notes.append("hang cancelled")
            raise
        return "slept"

    @server.tool()
    def long_text(length: int) -> str:
        """A text of this length."""
        return "x" * length

    @server.tool()
    def die() -> str:
        """Ends the process."""
        os._exit(1)

    @server.tool()
    def events() -> list[str]:
        """The notes of the other tools."""
        return notes

    @server.tool()
    async def note() -> str:
        """Notes a call."""
        notes.append("note called")
        return "noted"

    return server


def refuse_discovery(app: Any) -> Any:
    """An app that, like servers of the earlier protocol, does not know ``server/discover``."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers") or ())
        if headers.get(b"mcp-method") == b"server/discover":
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"unknown"})
            return
        await app(scope, receive, send)

    return serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--protected", action="store_true")
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--transport", choices=("http", "sse", "stdio"), default="http")
    options = parser.parse_args()
    server = make_server(options.protected)
    if options.transport == "stdio":
        server.run("stdio")
        return
    import uvicorn

    app = server.sse_app() if options.transport == "sse" else server.streamable_http_app()
    sock = socket.create_server(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    config = uvicorn.Config(refuse_discovery(app) if options.old else app, log_level="error")
    uvicorn.Server(config).run([sock])


def exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
