"""A gunicorn gevent worker with graceful shutdown for streams and limits for clients.

When a worker stops (SIGTERM, reload by SIGHUP, ``max_requests``), gunicorn accepts no more
connections, answers requests on open ones with ``Connection: close`` and waits for
``graceful_timeout``. This worker adds two steps. It soon closes idle connections, which would
otherwise keep it alive until the time-out. Shortly before the time-out, it ends running responses
with an error in their protocol.

If gunicorn aborts a worker that was blocked for ``timeout`` seconds, the worker exits at once and
gunicorn replaces it. Client connections are subject to the limits of ``client_socket``.

gunicorn's master imports this module and keeps it after SIGHUP. This module and ``client_socket``
must not import other modules of the forwarder, or a reload would mix old and new code.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import socket
import struct
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

import gevent
from gevent import get_hub, getcurrent, monkey
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.wsgi import Response
from gunicorn.util import close_graceful
from gunicorn.workers.ggevent import GeventWorker

from forwarder.server.client_socket import TURN_PAUSE_SECONDS, ClientLimits, ClientSocket

_POLL_SECONDS = 0.2
"""Seconds between two checks for shutdown."""

_IDLE_LINGER_SECONDS = 2.0
"""Seconds after which a stopping worker closes idle connections. If a client sends a request
before, the worker answers it with ``Connection: close``."""

_SHUTDOWN_MARGIN_SECONDS = 2.0
"""Seconds before the end of the grace period when the worker ends running responses. It needs
time to send the errors, and gunicorn checks only once a second whether connections are left."""

_ABORT_EXIT_CODE = 1
"""Exit code after an abort. gunicorn replaces such a worker."""

_MAX_LINGER_BYTES = 2**20
"""Bytes of an unread body that the worker still reads. The client can then read the response
before the connection is reset."""

_GC_THRESHOLDS = (10_000, 20, 50)
"""Thresholds for ``gc.set_threshold``. They are high because a stream leaves almost no reference
cycles behind."""

_MMAP_THRESHOLD_PARAMETER = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""

_LARGE_BUFFER_BYTES = 2**20

_LAST_RECEIVED = struct.Struct("52xI")
"""Linux's ``tcp_info`` up to ``tcpi_last_data_recv`` (milliseconds)."""

_MAX_REFUSED_BYTES = 2**16

_MAX_CORKED_BYTES = 2**16
"""Largest part of a body that is copied behind the head instead of being sent after it."""

_PROBES = (b"GET /health", b"GET /ready", b"GET /metrics")

_LATE_MESSAGE = b"The request has waited too long for a worker (limit: FORWARDER_QUEUE_TIMEOUT)."
_LATE_OPENAI = (
    b'{"error":{"message":"%b","type":"server_error","param":null,"code":"overloaded"}}'
    % _LATE_MESSAGE
)
_LATE_OLLAMA = b'{"error":"%b"}' % _LATE_MESSAGE
_LATE_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n"
)

_poll = monkey.get_original("select", "poll")


class CorkingResponse(Response):  # type: ignore[misc]
    """gunicorn's response, which sends the head together with the first part of the body."""

    def write(self, arg: bytes) -> None:
        """Send a part of the body, and the head before the first part."""
        if self.headers_sent or len(arg) > _MAX_CORKED_BYTES:
            super().write(arg)
            return
        self.sock.cork()
        try:
            super().write(arg)
        finally:
            self.sock.uncork()


class Worker(GeventWorker):  # type: ignore[misc]
    """The value of gunicorn's ``worker_class``. Works with any WSGI application."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clients: dict[Any, ClientSocket] = {}
        self._idle: dict[Any, gevent.Timeout] = {}
        self._limits = ClientLimits()
        self._leaving_at = inf
        self._serving_since = inf

    def init_process(self) -> None:
        """Load the application without garbage collection, which takes a tenth of that time."""
        gc.disable()
        cache_settings(self.cfg)
        wsgi.Response = CorkingResponse  # gunicorn has no setting for it
        super().init_process()

    def run(self) -> None:
        """Serve requests until gunicorn stops the worker."""
        tune_garbage_collector()
        return_large_buffers()
        raise_file_limit()
        self._limits = read_client_limits(self._get_forwarder())
        self._check_background_grace()
        # By name, because after a SIGHUP the application may be of an older version.
        getattr(self._get_forwarder(), "resume_background_work", lambda: None)()
        gevent.spawn(self._watch_for_exit)
        self._serving_since = time.monotonic()
        try:
            super().run()
            self._await_background_work()
        finally:
            getattr(self._get_forwarder(), "save_usage", lambda: None)()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT: no grace period, but running responses end with an error."""
        gevent.spawn(self._stop_running)
        super().handle_quit(sig, frame)

    def handle_abort(self, sig: int, frame: Any) -> None:
        """SIGABRT: the worker was blocked for too long, so exit at once.

        gunicorn raises SystemExit here, which would end only the greenlet that is running.
        """
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("Worker aborted (pid:%s), busy in:\n%s", self.pid, stack)
        with suppress(Exception):
            self.cfg.worker_abort(self)
        os._exit(_ABORT_EXIT_CODE)

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve a connection, or refuse it if its first request has waited too long."""
        if self._limits.queue_timeout and self._has_waited_too_long(client):
            if refuse_late(client):
                return
            client.setblocking(True)
        guarded = self._clients[getcurrent()] = ClientSocket(client, self._limits)
        try:
            super().handle(listener, guarded, addr)
        finally:
            del self._clients[getcurrent()]

    def _has_waited_too_long(self, client: socket.socket) -> bool:
        """Whether the request waited too long for this worker, other than for its start."""
        wait = measure_wait(client)
        return wait > self._limits.queue_timeout and time.monotonic() - wait > self._serving_since

    def handle_request(self, listener_name: Any, req: Any, sock: ClientSocket, addr: Any) -> None:
        """Serve a request.

        Raises StopIteration, as gunicorn expects, if the connection cannot be reused.
        """
        body = sock.open_body(req)
        try:
            super().handle_request(listener_name, req, sock, addr)
            is_reusable = body is None or body.skip_rest()
        except StopIteration:
            is_reusable = False
        finally:
            sock.close_body()
        if not is_reusable:
            if body is not None and not body.is_complete:
                close_graceful(sock, max_drain=_MAX_LINGER_BYTES)
            raise StopIteration
        if req.unreader.buf.tell() or has_pending_data(sock):
            # Let other clients run: this one has already sent its next request.
            gevent.sleep(TURN_PAUSE_SECONDS)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """gunicorn waits inside this context for the next request of a connection."""
        with gevent.Timeout(self.cfg.keepalive, False) as timeout:  # type: ignore[arg-type]
            self._idle[getcurrent()] = timeout
            try:
                yield
            finally:
                del self._idle[getcurrent()]

    def _watch_for_exit(self) -> None:
        while self.alive:
            gevent.sleep(_POLL_SECONDS)
        grace = self.cfg.graceful_timeout
        self._leaving_at = time.monotonic()
        self._notify_running("announce")
        gevent.spawn_later(self._get_running_grace(), self._stop_running)
        gevent.sleep(min(_IDLE_LINGER_SECONDS, grace / 2))
        while self._clients:
            for waiting in list(self._idle):
                get_hub().loop.run_callback(self._close_idle, waiting)
            gevent.sleep(_POLL_SECONDS)

    def _await_background_work(self) -> None:
        """Wait for background work, at most until the end of the grace period."""
        running = getattr(self._get_forwarder(), "running", ())
        while running and time.monotonic() < self._leaving_at + self.cfg.graceful_timeout:
            self.notify()
            gevent.sleep(_POLL_SECONDS)
        if running:
            self.log.warning("Worker graceful timeout (pid:%s): %d running", self.pid, len(running))

    def _get_running_grace(self) -> float:
        """Seconds until a stopping worker ends running responses."""
        grace = self.cfg.graceful_timeout
        return float(max(grace - _SHUTDOWN_MARGIN_SECONDS, grace / 2))

    def _check_background_grace(self) -> None:
        """Warn if gunicorn's time-out is too short for FORWARDER_BACKGROUND_GRACE."""
        settings = getattr(self._get_forwarder(), "settings", None)
        requested = getattr(settings, "background_grace", None) or 0.0
        limit = self._get_running_grace()
        if requested > limit:
            self.log.warning(
                "FORWARDER_BACKGROUND_GRACE (%g s) exceeds gunicorn's graceful timeout: "
                "background work has only %g s. Raise GUNICORN_GRACEFUL_TIMEOUT to %g.",
                requested,
                limit,
                requested + _SHUTDOWN_MARGIN_SECONDS,
            )

    def _stop_running(self) -> None:
        self._notify_running("announce")
        self._notify_running("stop")

    def _notify_running(self, method: str) -> None:
        """Call a method of the forwarder's ``running``. An older forwarder may lack it."""
        forwarder = self._get_forwarder()
        if forwarder is not None:
            getattr(forwarder.running, method, lambda: None)()

    def _get_forwarder(self) -> Any:
        """Return the application's `ForwarderExtension`, or None for another application."""
        return getattr(self.wsgi, "extensions", {}).get("forwarder")

    def _close_idle(self, waiting: Any) -> None:
        """Time out the wait for a next request now, unless a request has arrived."""
        timeout = self._idle.get(waiting)
        if timeout is not None and not has_pending_data(self._clients[waiting]):
            waiting.throw(timeout)


def cache_settings(config: Config) -> None:
    """Make the settings plain attributes of ``config``; they do not change in a worker.

    gunicorn reads two dozen settings for each request, and each takes two calls of functions.
    """
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})


def tune_garbage_collector() -> None:
    """Exclude permanent objects from garbage collection.

    Otherwise the collector scans the whole program every few hundred streams. That took a tenth of
    the run time and blocked all streams meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()


def return_large_buffers() -> None:
    """Have glibc return large buffers to the system as soon as they are freed.

    By default, glibc raises this threshold to up to 32 MB when large buffers are freed, and then
    keeps up to 64 MB of freed memory. A worker held 30 MB more after a body of 60 MB.
    """
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD_PARAMETER, _LARGE_BUFFER_BYTES)


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS enforces a lower limit than it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure_wait(client: socket.socket) -> float:
    """Return the seconds since data last arrived; 0 without pending data or if unknown.

    For a newly accepted connection, this is the time that its request waited for the worker.
    """
    if not has_pending_data(client):
        return 0.0
    try:
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.size)
        return float(_LAST_RECEIVED.unpack(info)[0]) / 1000
    except (OSError, AttributeError, struct.error):  # not TCP, or not Linux
        return 0.0


def refuse_late(client: socket.socket) -> bool:
    """Answer a first request with 503 and close the connection. Returns False for probes.

    The application would need almost as much time to refuse a request as to serve it. Probes are
    served, since a monitor would otherwise consider an overloaded worker dead.
    """
    client.setblocking(False)
    start = b""
    try:
        start = client.recv(_MAX_REFUSED_BYTES, socket.MSG_PEEK)
        if not start or start.startswith(_PROBES):
            return False
        while client.recv(_MAX_REFUSED_BYTES):  # unread data would reset the connection
            pass
    except OSError:  # no more data has arrived
        pass
    try:
        body = _LATE_OLLAMA if start.startswith(b"POST /api/") else _LATE_OPENAI
        client.sendall(_LATE_HEAD % len(body) + body)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    client.close()
    return True


def read_client_limits(forwarder: Any) -> ClientLimits:
    """Return the limits of the forwarder's settings, or the defaults for another application."""
    settings = getattr(forwarder, "settings", None)
    values = {name: getattr(settings, name, None) for name in ClientLimits._fields}
    return ClientLimits(**{name: value for name, value in values.items() if value is not None})


def has_pending_data(client: Any) -> bool:
    # The system's poll, not gevent's: this runs in the event loop itself and must not block.
    poll = _poll()
    poll.register(client.fileno(), 1)
    return bool(poll.poll(0))
