"""gunicorn's gevent worker, which leaves without cutting anybody off.

What gunicorn does itself when a worker has to go (SIGTERM, a deploy by SIGHUP, ``max_requests``):
it accepts no more connections, answers further requests on kept ones with ``Connection: close``,
and waits for ``graceful_timeout``.  Two things are added.  Kept connections on which nothing
happens are closed after a moment, since they would hold the worker for all that time; and shortly
before the time is over, what still runs is ended in its client's protocol.

A worker that gunicorn aborts, because it has not moved for ``timeout`` seconds, ends at once and
is replaced.  Clients' connections are held to the limits of ``client_socket``.

gunicorn's master imports this module, and keeps it over a SIGHUP: it and ``client_socket`` must
import nothing else of the forwarder, or a deploy would run old code and new.
"""

from __future__ import annotations

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
from gunicorn.util import close_graceful
from gunicorn.workers.ggevent import GeventWorker

from forwarder.server.client_socket import TURN_PAUSE_SECONDS, ClientLimits, ClientSocket

_POLL_SECONDS = 0.2
"""Seconds between two looks at whether it is time to go."""

_IDLE_LINGER_SECONDS = 2.0
"""Seconds that kept connections have left when a worker goes.  Clients that ask again meanwhile
are answered, and told to close; only those that were idle for longer find their connection
closed."""

_SHUTDOWN_MARGIN_SECONDS = 2.0
"""Seconds before the end of the grace when running answers are ended: time to tell it, and for
gunicorn, which looks once a second, to see that nothing is left."""

_ABORT_EXIT_CODE = 1
"""The exit code of a worker that gunicorn has aborted; gunicorn replaces it."""

_MAX_LINGER_BYTES = 2**20
"""What is still taken of a body that nobody reads, so that its client reads the answer before its
connection is reset."""

_GC_THRESHOLDS = (10_000, 20, 50)
"""Objects made and not freed before a collection, and how many of one generation before the next;
a stream leaves next to no cycles behind."""

_LAST_RECEIVED = struct.Struct("52xI")
"""Linux's ``tcp_info`` up to ``tcpi_last_data_recv``, which is in milliseconds."""

_MAX_REFUSED_BYTES = 2**16

_PROBES = (b"GET /health", b"GET /ready", b"GET /metrics")

_LATE_MESSAGE = b"The request has waited too long for its turn (limit: FORWARDER_QUEUE_TIMEOUT)."
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


class Worker(GeventWorker):  # type: ignore[misc]
    """For gunicorn's ``worker_class``; the application may be any."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self._clients: dict[Any, ClientSocket] = {}
        self._idle: dict[Any, gevent.Timeout] = {}
        self._limits = ClientLimits()
        self._leaving_at = inf
        self._serving_since = inf

    def run(self) -> None:
        """Serve until told to go."""
        tune_garbage_collector()
        raise_file_limit()
        self._limits = read_client_limits(self._get_forwarder())
        self._check_background_grace()
        # By name, because after a SIGHUP the application may be of an older version.
        getattr(self._get_forwarder(), "resume_background_work", lambda: None)()
        gevent.spawn(self._watch_for_exit)
        self._serving_since = time.monotonic()
        super().run()
        self._await_background_work()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT give no grace, but running answers are told."""
        gevent.spawn(self._stop_running)
        super().handle_quit(sig, frame)

    def handle_abort(self, sig: int, frame: Any) -> None:
        """SIGABRT: the worker has not moved for too long, and must not go on.

        gunicorn's own way, SystemExit, would end one request only: the one that happens to run.
        """
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("Worker aborted (pid:%s), busy in:\n%s", self.pid, stack)
        with suppress(Exception):
            self.cfg.worker_abort(self)
        os._exit(_ABORT_EXIT_CODE)

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve a connection, unless its first request has waited for too long."""
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
        """Has a request waited for this worker, rather than for a worker to start?"""
        wait = measure_wait(client)
        return wait > self._limits.queue_timeout and time.monotonic() - wait > self._serving_since

    def handle_request(self, listener_name: Any, req: Any, sock: ClientSocket, addr: Any) -> None:
        """Serve a request.

        Raises StopIteration, gunicorn's word for it, if the connection cannot be used again.
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
            gevent.sleep(
                TURN_PAUSE_SECONDS
            )  # a client that sends many requests at once is not alone

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """gunicorn waits in here for the next request of a connection."""
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
        """Work that has no client keeps the worker too, until it is done or the grace is over."""
        running = getattr(self._get_forwarder(), "running", ())
        while running and time.monotonic() < self._leaving_at + self.cfg.graceful_timeout:
            self.notify()
            gevent.sleep(_POLL_SECONDS)
        if running:
            self.log.warning("Worker graceful timeout (pid:%s): %d running", self.pid, len(running))

    def _get_running_grace(self) -> float:
        """Seconds that running answers have to end when the worker goes."""
        grace = self.cfg.graceful_timeout
        return float(max(grace - _SHUTDOWN_MARGIN_SECONDS, grace / 2))

    def _check_background_grace(self) -> None:
        """Say so if background work cannot have the grace that the operator wants it to have."""
        settings = getattr(self._get_forwarder(), "settings", None)
        wanted, limit = (
            getattr(settings, "background_grace", None) or 0.0,
            self._get_running_grace(),
        )
        if wanted > limit:
            self.log.warning(
                "FORWARDER_BACKGROUND_GRACE (%g s) is longer than gunicorn's graceful timeout "
                "allows: background work has %g s. Raise GUNICORN_GRACEFUL_TIMEOUT to %g.",
                wanted,
                limit,
                wanted + _SHUTDOWN_MARGIN_SECONDS,
            )

    def _stop_running(self) -> None:
        """End what the forwarder runs."""
        self._notify_running("announce")
        self._notify_running("stop")

    def _notify_running(self, word: str) -> None:
        """An older forwarder knows nothing of this."""
        bridge = self._get_forwarder()
        if bridge is not None:
            getattr(bridge.running, word, lambda: None)()

    def _get_forwarder(self) -> Any:
        """The forwarder's; another application has none."""
        return getattr(self.wsgi, "extensions", {}).get("forwarder")

    def _close_idle(self, waiting: Any) -> None:
        """End the wait for a next request as its time-out would, unless one is just coming."""
        timeout = self._idle.get(waiting)
        if timeout is not None and not has_pending_data(self._clients[waiting]):
            waiting.throw(timeout)


def tune_garbage_collector() -> None:
    """Keep the garbage collector from what is here to stay.

    Without this it looks through the whole program every few hundred streams, which took a tenth
    of their time, all streams waiting meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets the process have; each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower limit than it tells
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure_wait(client: socket.socket) -> float:
    """Seconds since data last arrived on a connection; 0 if none has, or if it is unknown.

    For a connection that was just accepted this is how long its request waited for the worker.
    """
    if not has_pending_data(client):
        return 0.0
    try:
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.size)
        return float(_LAST_RECEIVED.unpack(info)[0]) / 1000
    except (OSError, AttributeError, struct.error):  # no TCP, or not Linux
        return 0.0


def refuse_late(client: socket.socket) -> bool:
    """Answer a first request with 503 and close its connection; False if it must be served.

    A refusal by the application would cost almost as much as an answer.  Probes are served, or an
    overloaded worker would be taken for a dead one.
    """
    client.setblocking(False)
    start = b""
    try:
        start = client.recv(_MAX_REFUSED_BYTES, socket.MSG_PEEK)
        if not start or start.startswith(_PROBES):
            return False
        while client.recv(_MAX_REFUSED_BYTES):  # what is left unread would reset the connection
            pass
    except OSError:  # nothing more is here
        pass
    try:
        body = _LATE_OLLAMA if start.startswith(b"POST /api/") else _LATE_OPENAI
        client.sendall(_LATE_HEAD % len(body) + body)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    client.close()
    return True


def read_client_limits(bridge: Any) -> ClientLimits:
    """The limits that the forwarder is set to; the defaults for another application."""
    settings = getattr(bridge, "settings", None)
    given = {name: getattr(settings, name, None) for name in ClientLimits._fields}
    return ClientLimits(**{name: value for name, value in given.items() if value is not None})


def has_pending_data(client: Any) -> bool:
    # The poll of the system, not gevent's: it is asked in the loop itself and must not wait.
    poll = _poll()
    poll.register(client.fileno(), 1)
    return bool(poll.poll(0))
