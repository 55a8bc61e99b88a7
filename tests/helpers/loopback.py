"""Small servers on loopback, in threads, for tests with real sockets."""

from __future__ import annotations

import atexit
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

LIMIT = 10.0
"""Seconds after which a server gives up, so that a failing test ends."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server
        self.file: BinaryIO = sock.makefile("rb")

    def request(self) -> bytes:
        """Read and record one whole request. Returns ``b""`` if the client has closed."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            if not line:
                return b""
            head += line
        body = b""
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                body = self.file.read(int(line.partition(b":")[2]))
            if line == b"transfer-encoding: chunked":
                while not body.endswith(b"0\r\n\r\n"):
                    body += self.file.readline()
        self.server.requests.append(head + body)
        return head + body

    def send(self, *pieces: bytes) -> None:
        """Send the pieces, each with its own call."""
        for piece in pieces:
            self.sock.sendall(piece)

    def answer(self, body: bytes, *headers: bytes) -> None:
        """Send a whole response."""
        lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", b""]
        self.send(b"\r\n".join(lines) + body)

    def start_chunked(self) -> None:
        """Send the head of a chunked response."""
        self.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        """Close the socket and the file that reads from it."""
        self.file.close()
        self.sock.close()


def encode_chunk(data: bytes) -> bytes:
    """Return one HTTP chunk. The empty chunk ends the message."""
    return b"%x\r\n%b\r\n" % (len(data), data)


Script = Callable[[Peer], None]


@dataclass
class Server:
    """A running server and the requests that it has received."""

    port: int
    scheme: str = "http"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    """For scripts that wait for the test."""

    @property
    def url(self) -> str:
        """The server's root, without the last slash."""
        return f"{self.scheme}://localhost:{self.port}"

    def wait(self) -> None:
        """Wait until the test calls ``go.set()``. For scripts."""
        assert self.go.wait(LIMIT)


@contextmanager
def run_server(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server that calls ``script`` for each connection and closes it afterwards."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1], "https" if tls else "http")
    threads: list[threading.Thread] = []

    def run(sock: socket.socket) -> None:
        with suppress(OSError):
            sock.settimeout(LIMIT)
            peer = Peer(tls.wrap_socket(sock, server_side=True) if tls else sock, server)
            try:
                script(peer)
            finally:
                peer.close()
        sock.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                server.connections += 1
                threads.append(threading.Thread(target=run, args=[sock], daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        server.go.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(LIMIT)
        for thread in threads:
            thread.join(LIMIT)


_unused = ExitStack()
atexit.register(_unused.close)


def find_unused_port() -> int:
    """Return a port that has no listener as long as the tests run."""
    sock = _unused.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))  # it stays bound, so that no other process is given the port
    port: int = sock.getsockname()[1]
    return port
