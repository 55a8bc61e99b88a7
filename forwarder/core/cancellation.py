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

_Plain = monkey.get_original("socket", "socket")


class Waiting(Protocol):
    """Who waits: ``cuts`` are called when it leaves."""

    cuts: set[Callable[[], None]]

    @property
    def left(self) -> bool:
        """Has it left?"""


_waiting: ContextVar[Waiting | None] = ContextVar("waiting", default=None)


class WaitedForBy:
    """What is sent within is for ``waiting``."""

    __slots__ = ("_token", "_waiting")

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting

    def __enter__(self) -> None:
        self._token = _waiting.set(self._waiting)

    def __exit__(self, *error: object) -> None:
        _waiting.reset(self._token)


def is_awaited() -> bool:
    """Does anybody still wait for what is being sent?"""
    waiting = _waiting.get()
    return waiting is None or not waiting.left


def cut_with(sock: socket.socket) -> Callable[[], None] | None:
    """From here on the connection ends when whoever waits for its answer leaves.

    Gives what `spared` needs to know.
    """
    waiting = _waiting.get()
    if waiting is None:
        return None
    cut = partial(_shut, sock)
    waiting.cuts.add(cut)
    return cut


def spared(cut: Callable[[], None] | None) -> None:
    """From here on it does not."""
    waiting = _waiting.get()
    if waiting is not None and cut is not None:
        waiting.cuts.discard(cut)


def _shut(sock: socket.socket) -> None:
    """As if the peer had closed; the object stays whole for the one who is reading from it."""
    with suppress(OSError), _Plain(fileno=os.dup(sock.fileno())) as twin:
        twin.shutdown(SHUT_RDWR)
