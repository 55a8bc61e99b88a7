"""Cancels the wait for an upstream's response head when the client has disconnected.

An open response can be closed.  Before the head arrives there is no response: a greenlet waits
inside the SDK on a socket that only the transport knows.  The transport registers this socket here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from socket import SHUT_RDWR
from typing import Protocol

from gevent import monkey, socket

_SystemSocket = monkey.get_original("socket", "socket")


class CancelToken(Protocol):
    """A waiting client; ``cancel_callbacks`` are called when it disconnects."""

    cancel_callbacks: set[Callable[[], None]]

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has disconnected."""


_current_token: ContextVar[CancelToken | None] = ContextVar("cancel_token", default=None)


class CancellationScope:
    """Context manager: upstream requests sent inside it belong to the client of ``token``."""

    __slots__ = ("_reset_token", "_token")

    def __init__(self, token: CancelToken) -> None:
        self._token = token

    def __enter__(self) -> None:
        self._reset_token = _current_token.set(self._token)

    def __exit__(self, *error: object) -> None:
        _current_token.reset(self._reset_token)


def is_client_waiting() -> bool:
    """Return whether the client of the current scope still waits; true outside of any scope."""
    token = _current_token.get()
    return token is None or not token.is_cancelled


def register_socket(sock: socket.socket) -> Callable[[], None] | None:
    """Shut ``sock`` down if the client of the current scope disconnects.

    Returns the callback to pass to `unregister_socket`.
    """
    token = _current_token.get()
    if token is None:
        return None
    callback = partial(shut_down_socket, sock)
    token.cancel_callbacks.add(callback)
    return callback


def unregister_socket(callback: Callable[[], None] | None) -> None:
    """Undo `register_socket`."""
    token = _current_token.get()
    if token is not None and callback is not None:
        token.cancel_callbacks.discard(callback)


def shut_down_socket(sock: socket.socket) -> None:
    """Make the socket behave as if the peer had closed it; the reader's object stays usable."""
    with suppress(OSError), _SystemSocket(fileno=os.dup(sock.fileno())) as twin:
        twin.shutdown(SHUT_RDWR)
