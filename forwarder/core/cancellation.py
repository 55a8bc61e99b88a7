"""Ends the wait for an upstream's head when nobody waits for its answer any more.

An answer that is open can be closed.  Before that there is only a greenlet that waits in the midst
of the SDK, and a socket that nobody else knows; the transport leaves word of it here.
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
    """Who waits: ``cancel_callbacks`` are called when it leaves."""

    cancel_callbacks: set[Callable[[], None]]

    @property
    def is_cancelled(self) -> bool:
        """Has the client gone?"""


_current_token: ContextVar[CancelToken | None] = ContextVar("waiting", default=None)


class CancellationScope:
    """What is sent within is for ``waiting``."""

    __slots__ = ("_token", "_waiting")

    def __init__(self, waiting: CancelToken) -> None:
        self._waiting = waiting

    def __enter__(self) -> None:
        self._token = _current_token.set(self._waiting)

    def __exit__(self, *error: object) -> None:
        _current_token.reset(self._token)


def is_client_waiting() -> bool:
    """Does anybody still wait for what is being sent?"""
    waiting = _current_token.get()
    return waiting is None or not waiting.is_cancelled


def register_socket(sock: socket.socket) -> Callable[[], None] | None:
    """From here on the connection ends when whoever waits for its answer leaves.

    Gives what `unregister_socket` needs to know.
    """
    waiting = _current_token.get()
    if waiting is None:
        return None
    cut = partial(shut_down_socket, sock)
    waiting.cancel_callbacks.add(cut)
    return cut


def unregister_socket(cut: Callable[[], None] | None) -> None:
    """From here on it does not."""
    waiting = _current_token.get()
    if waiting is not None and cut is not None:
        waiting.cancel_callbacks.discard(cut)


def shut_down_socket(sock: socket.socket) -> None:
    """As if the peer had closed; the object stays whole for the one who is reading from it."""
    with suppress(OSError), _SystemSocket(fileno=os.dup(sock.fileno())) as twin:
        twin.shutdown(SHUT_RDWR)
