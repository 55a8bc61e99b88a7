"""Limits on client connections under gunicorn: time-outs and wasted work.

gunicorn has no time-out for the head of a first request, for a body, or for a client that does not
read its response. It reads buffered data without yielding to other requests, and it skips an
unread body to the end, regardless of its length.

gunicorn's master imports this module with the worker and keeps it after SIGHUP, so the module must
not import other modules of the forwarder.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import Any, NamedTuple

import gevent
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import ParseException

log = logging.getLogger("forwarder.server")

MAX_SKIPPED_BYTES = 2**16
"""If more of a body is unread, the worker closes the connection instead of skipping the rest."""

_SKIP_SECONDS = 2.0
"""Time limit for skipping the rest of a body."""

_MIN_BYTES_PER_SECOND = 2**15
"""Slowest accepted transfer of a body: received bytes extend its deadline at this rate."""

_WIRE_BYTES_PER_BODY_BYTE = 4
"""Received bytes allowed per body byte. A chunk of one byte takes six bytes on the wire."""

_MAX_RECEIVE_BYTES = 2**16
"""Size limit of one ``recv``."""

_MAX_REASON_CHARACTERS = 200
"""Limit for error text that quotes the client."""

TURN_PAUSE_SECONDS = 1e-5
"""Pause that lets other requests run. gevent checks no sockets during a pause of 0."""


class ClientLimits(NamedTuple):
    """Settings for client connections: time-outs in seconds, ``max_chunk_overhead`` in bytes.

    ``min_send_rate`` is in bytes per second. A ``queue_timeout`` of 0 means that new connections
    wait without limit.
    """

    head_timeout: float = 10.0
    body_timeout: float = 30.0
    send_timeout: float = 60.0
    min_send_rate: int = 4096
    max_chunk_overhead: int = 2**16
    queue_timeout: float = 2.0


class RequestBodyError(Exception):
    """A request body that cannot be read; ``code`` is the HTTP status of the response."""

    def __init__(self, code: int, name: str, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.name = name
        self.description = description


class ClientSocket:
    """A socket wrapper that enforces the limits for gunicorn and the application."""

    def __init__(self, sock: Any, limits: ClientLimits) -> None:
        self._sock = sock
        self._limits = limits
        self._body: RequestBody | None = None
        self._head_deadline: float | None = time.monotonic() + limits.head_timeout
        self._wait_budget = limits.send_timeout
        self._corked: list[bytes] | None = None
        self.gettimeout, self.settimeout = sock.gettimeout, sock.settimeout
        self.fileno = sock.fileno

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def open_body(self, request: Any) -> RequestBody | None:
        """Begin a request. Returns its limited body, or None without one."""
        self._head_deadline = None
        self._wait_budget = self._limits.send_timeout
        self._sock.settimeout(self._limits.send_timeout)
        if getattr(request.body.reader, "length", None) != 0:
            request.body = self._body = RequestBody(request, self._limits)
        return self._body

    def close_body(self) -> None:
        """End the request. The next received bytes are the head of another request."""
        self._body = None
        self._sock.settimeout(None)

    def recv(self, size: int, *flags: int) -> bytes:
        """Receive up to ``size`` bytes.

        Returns ``b""``, as for a closed connection, if the first request's head is late.
        """
        if self._body is not None and not self._body.is_complete:
            return self._body.receive(self._sock, size)
        if self._head_deadline is None:
            received: bytes = self._sock.recv(size, *flags)
            return received
        try:
            return receive_until(self._head_deadline, self._sock, size, *flags)
        except TimeoutError:
            return b""

    def cork(self) -> None:
        """Collect the data of `sendall` until `uncork` sends all of it at once."""
        self._corked = []

    def uncork(self) -> None:
        """Send the collected data. Raises BrokenPipeError like `sendall`."""
        corked, self._corked = self._corked, None
        if corked:
            self.sendall(b"".join(corked))

    def sendall(self, data: bytes) -> None:
        """Send ``data`` whole.

        Raises BrokenPipeError, which gunicorn handles, if the client stops reading or reads too
        slowly.
        """
        if self._corked is not None:
            self._corked.append(data)
            return
        try:
            sent = self._send_part(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self._send_part(rest) :]
        except TimeoutError:
            log.info(
                "a client did not read its response in time (limits: FORWARDER_SEND_TIMEOUT, "
                "FORWARDER_MIN_SEND_RATE)",
                extra={"event": "client_send_timeout"},
            )
            raise BrokenPipeError(errno.EPIPE, "The client does not read its response.") from None

    def _send_part(self, data: bytes | memoryview) -> int:
        """Send as much as the client accepts at once, and return the number of bytes.

        Waiting for the client uses up ``_wait_budget``, at most ``send_timeout`` seconds per
        request. Accepted bytes refill it at ``min_send_rate``. Raises TimeoutError if the budget is
        used up, or if the client accepts nothing within the time-out.
        """
        started = time.monotonic()
        sent: int = self._sock.send(data)
        gained = sent / self._limits.min_send_rate - (time.monotonic() - started)
        self._wait_budget = min(self._wait_budget + gained, self._limits.send_timeout)
        if self._wait_budget < 0:
            raise TimeoutError
        return sent


class RequestBody(Body):  # type: ignore[misc]
    """gunicorn's request body with limits.

    The response announces ``Connection: close`` unless the body is read to its end or its rest is
    short enough to skip.
    """

    def __init__(self, request: Any, limits: ClientLimits) -> None:
        super().__init__(request.body.reader)
        self._request = request
        self._limits = limits
        self._is_chunked = isinstance(self.reader, ChunkedReader)
        self._received = self._delivered = self._since_turn = 0
        self._deadline = time.monotonic() + limits.body_timeout
        self._closes = request.must_close
        request.must_close |= self._is_chunked or self.reader.length > MAX_SKIPPED_BYTES

    @property
    def is_complete(self) -> bool:
        """Whether the body has been read to its end."""
        if self.failed:
            return False
        return self.reader.parser is None if self._is_chunked else self.reader.length == 0

    def skip_rest(self) -> bool:
        """Skip the unread rest. Returns False if the connection cannot be reused."""
        if self.is_complete:
            return True
        if self.failed or self._request.must_close:
            return False
        self._deadline = min(self._deadline, time.monotonic() + _SKIP_SECONDS)
        try:
            while self.read(_MAX_RECEIVE_BYTES):
                pass
        except (OSError, RequestBodyError):
            return False
        return self.is_complete

    def receive(self, sock: Any, size: int) -> bytes:
        """Receive up to ``size`` bytes of the body. Raises RequestBodyError at a limit."""
        if self._is_chunked or self._since_turn >= _MAX_RECEIVE_BYTES:
            self._since_turn = 0
            gevent.sleep(TURN_PAUSE_SECONDS)
        if self._is_chunked:
            self._check_overhead()
        try:
            data = receive_until(self._deadline, sock, min(size, _MAX_RECEIVE_BYTES))
        except TimeoutError:
            raise RequestBodyError(
                408,
                "Request Timeout",
                "The request body did not arrive in time (limit: FORWARDER_BODY_TIMEOUT).",
            ) from None
        self._received += len(data)
        self._since_turn += len(data)
        self._deadline += len(data) / _MIN_BYTES_PER_SECOND
        return data

    def _check_overhead(self) -> None:
        decoded = self._delivered + self.reader.buf.tell()
        overhead = self._received - _WIRE_BYTES_PER_BODY_BYTE * decoded
        if overhead > self._limits.max_chunk_overhead:
            raise RequestBodyError(
                413,
                "Content Too Large",
                "The chunks of the request body are too small (limit: "
                "FORWARDER_MAX_CHUNK_OVERHEAD).",
            )

    def _read_reader(self, size: int) -> bytes:
        try:
            data: bytes = super()._read_reader(size)
        except ParseException as error:
            reason = str(error)[:_MAX_REASON_CHARACTERS]
            raise RequestBodyError(
                400, "Bad Request", f"The chunks of the request body are malformed: {reason}"
            ) from None
        self._delivered += len(data)
        if self.is_complete:
            self._request.must_close = self._closes
        return data


def receive_until(deadline: float, sock: Any, size: int, *flags: int) -> bytes:
    """Receive up to ``size`` bytes. Raises TimeoutError if none arrive before ``deadline``."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    previous_timeout = sock.gettimeout()
    sock.settimeout(seconds)
    try:
        received: bytes = sock.recv(size, *flags)
        return received
    finally:
        sock.settimeout(previous_timeout)
