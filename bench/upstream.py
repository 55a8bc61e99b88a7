"""A scripted upstream with minimal cost: ``python -m bench.upstream FD``.

It serves the inherited listening socket ``FD``. Each stream event is one ``send``, and open
streams take turns, so that events are not merged on this side.
"""

from __future__ import annotations

import heapq
import itertools
import re
import selectors
import socket
import sys
import time
from collections import deque

import orjson

from bench import script
from bench.shape import Shape, read_fault

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PROTOCOLS = {b"/v1/chat/completions": "chat", b"/v1/responses": "responses"}


_FAULTY = {"cut": script.cut_in_half, "fail": lambda writes: (script.build_failure(),)}
"""Fault -> replacement of the answer's writes. After a cut answer the connection is closed."""


class Connection:
    """A client connection: the bytes received of its next request, and the pending writes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.writes: deque[bytes] = deque()
        self.pause = 0.0
        self.cut = False

    def receive(self, data: bytes) -> bool:
        """Add received bytes; returns true if they complete a request and ``writes`` is filled.

        Clients do not pipeline: they send a request only after the previous answer.
        """
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        head, body = self.received[:end], self.received[end + 4 :]
        length = _LENGTH.search(head) if end >= 0 else None
        if end < 0 or (length and len(body) < int(length[1])):
            return False
        self.received = b""
        self._queue_answer(head, body)
        return True

    def _queue_answer(self, head: bytes, body: bytes) -> None:
        try:
            protocol = _PROTOCOLS[head.split(b" ", 2)[1]]
            request = orjson.loads(body)
            shape = Shape.parse(request["model"])
        except (LookupError, ValueError, TypeError) as error:
            self.writes.append(script.build_refusal(repr(error)))
            return
        # HTTP/1.0 has no chunked framing.
        chunked = b" HTTP/1.1\r\n" in head
        streamed = bool(request.get("stream"))
        writes = script.build_writes(protocol, shape, streamed, chunked)
        fault = read_fault(request["model"])
        self.cut = fault == "cut"
        self.writes.extend(_FAULTY[fault](writes) if fault else writes)
        self.pause = shape.pause / 1000


class Server:
    """Serves all connections in one thread: read, wake paused streams, send one write each."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._ready: deque[Connection] = deque()
        self._paused: list[tuple[float, int, Connection]] = []
        self._order = itertools.count()

    def serve_forever(self) -> None:
        """Serve until the process is stopped."""
        while True:
            for key, events in self._selector.select(self._compute_wait()):
                if key.data is None:
                    self._accept()
                elif events & selectors.EVENT_WRITE:
                    self._resume_blocked(key.data)
                else:
                    self._read(key.data)
            self._resume_paused()
            for _ in range(len(self._ready)):
                self._send(self._ready.popleft())

    def _compute_wait(self) -> float | None:
        if self._ready:
            return 0
        return max(0, self._paused[0][0] - time.monotonic()) if self._paused else None

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, Connection(sock))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(262144)
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
        elif connection.receive(data):
            self._ready.append(connection)

    def _resume_paused(self) -> None:
        now = time.monotonic()
        while self._paused and self._paused[0][0] <= now:
            self._ready.append(heapq.heappop(self._paused)[2])

    def _send(self, connection: Connection) -> None:
        if not connection.writes:  # the connection was dropped in the meantime
            return
        write = connection.writes.popleft()
        try:
            sent = connection.sock.send(write)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        if sent < len(write):
            connection.writes.appendleft(write[sent:])
            self._wait_for(connection, selectors.EVENT_WRITE)
        elif connection.pause and len(connection.writes) > 1:
            due = time.monotonic() + connection.pause
            heapq.heappush(self._paused, (due, next(self._order), connection))
        elif connection.writes:
            self._ready.append(connection)
        elif connection.cut:
            self._drop(connection)

    def _resume_blocked(self, connection: Connection) -> None:
        self._wait_for(connection, selectors.EVENT_READ)
        self._ready.append(connection)

    def _wait_for(self, connection: Connection, event: int) -> None:
        self._selector.modify(connection.sock, event, connection)

    def _drop(self, connection: Connection) -> None:
        connection.writes.clear()
        self._selector.unregister(connection.sock)
        connection.sock.close()


def main() -> None:
    """Serve the listening socket whose file descriptor is the only argument."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.setblocking(False)
    Server(listener).serve_forever()


if __name__ == "__main__":
    main()
