"""The HTTP side of the scripted upstream: sockets, threads, and the writing of replies."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from .wire import Cut, Pause, Reply, Stall, Step

POLL_SECONDS = 0.02
"""Seconds between two checks whether the client is still connected."""


class Ending(Protocol):
    """The events of a reply that are set at its end."""

    closed_by_client: threading.Event
    finished: threading.Event


@dataclass(frozen=True)
class Request:
    """A request as received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes
    connection_id: int

    def json(self) -> Any:
        """Return the body; None if it is not JSON."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None


Answerer = Callable[[Request], tuple[Reply, Ending]]


class ClientLeftError(Exception):
    """The client closed the connection before the reply was over."""


class HangUpError(Exception):
    """The reply ends with the connection."""


class Listener:
    """Accepts connections on loopback and answers requests, with one thread per connection."""

    def __init__(self, answer: Answerer, release: threading.Event, port: int = 0) -> None:
        self.failures: list[Exception] = []
        self._server = _Server(answer, release, self.failures, port)
        self._thread = threading.Thread(target=self._serve, name="scripted-upstream", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def connections(self) -> int:
        return self._server.accepted

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close all connections; return when all threads have ended."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=POLL_SECONDS)


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = False  # only then does server_close() wait for them
    request_queue_size = 256

    def __init__(
        self, answer: Answerer, release: threading.Event, failures: list[Exception], port: int
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer, self.release, self.failures = answer, release, failures
        self.stopping = threading.Event()
        self.accepted = 0
        self.open: dict[socket.socket, int] = {}

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which can take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.accepted += 1
        self.open[request] = self.accepted
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.pop(request, None)
        request.close()

    def hang_up(self) -> None:
        self.stopping.set()
        for sock in list(self.open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection_id = self.server.open[self.request]

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client disconnected between two requests, or the server stops
            self.close_connection = True

    def do_POST(self) -> None:
        request = self._request()
        try:
            reply, ending = self.server.answer(request)
        except Exception as failure:
            self.server.failures.append(failure)
            raise OSError("no answer") from failure
        try:
            self._write(reply)
        except (ClientLeftError, OSError):
            self.close_connection = True
            if not self.server.stopping.is_set():
                ending.closed_by_client.set()
        except HangUpError:
            self.close_connection = True
        ending.finished.set()

    do_GET = do_DELETE = do_PUT = do_PATCH = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _request(self) -> Request:
        url = urlsplit(self.path)
        return Request(
            self.command,
            url.path,
            dict(parse_qsl(url.query)),
            {name.lower(): value for name, value in self.headers.items()},
            self._body(),
            self.connection_id,
        )

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _write(self, reply: Reply) -> None:
        if reply.before:
            self._do(reply.before)
        if reply.steps is None:
            self._send(_encode_head(reply, f"content-length: {len(reply.body)}") + reply.body)
            return
        self._send(_encode_head(reply, "transfer-encoding: chunked"))
        steps = list(reply.steps)
        # Send the last event and the end of the body in one packet, so that a client that closes
        # after the last event does not count as disconnected.
        last = steps.pop() if steps else b""
        for step in steps:
            self._do(step)
        if isinstance(last, bytes):
            self._send((_encode_chunk(last) if last else b"") + b"0\r\n\r\n")
        else:
            self._do(last)
            self._send(b"0\r\n\r\n")

    def _do(self, step: Step) -> None:
        match step:
            case Pause(seconds):
                self._wait(seconds)
            case Stall(seconds):
                self._wait(seconds, self.server.release)
            case Cut(reset):
                self._hang_up(reset)
            case bytes():
                self._send(_encode_chunk(step))

    def _send(self, data: bytes) -> None:
        if self._client_left():
            raise ClientLeftError
        self.connection.sendall(data)

    def _wait(self, seconds: float, release: threading.Event | None = None) -> None:
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0 and not (release and release.is_set()):
            if self.server.stopping.is_set() or self._client_left():
                raise ClientLeftError
            time.sleep(min(POLL_SECONDS, remaining))

    def _client_left(self) -> bool:
        poll = select.poll()  # select() is limited to 1024 descriptors
        poll.register(self.connection, select.POLLIN)
        if not poll.poll(0):
            return False
        received: bytes = self.connection.recv(1, socket.MSG_PEEK)
        return not received

    def _hang_up(self, reset: bool) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise HangUpError


def _encode_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _encode_head(reply: Reply, length: str) -> bytes:
    phrase = HTTPStatus(reply.status).phrase
    lines = [f"HTTP/1.1 {reply.status} {phrase}", length]
    lines += [f"{name}: {value}" for name, value in reply.headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()
