"""Ends the wait for an upstream's head when nobody waits for its answer any more.

An answer that is open can be closed.  Before that there is only a greenlet that waits in the midst
of the SDK, and a socket that nobody else knows; the transport leaves word of it here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
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


@contextmanager
def waited_for_by(waiting: Waiting) -> Iterator[None]:
    """What is sent within is for ``waiting``."""
    token = _waiting.set(waiting)
    try:
        yield
    finally:
        _waiting.reset(token)


def is_awaited() -> bool:
    """Does anybody still wait for what is being sent?"""
    waiting = _waiting.get()
    return waiting is None or not waiting.left


@contextmanager
def cuttable(sock: socket.socket) -> Iterator[None]:
    """Within, the connection ends when whoever waits for its answer leaves."""
    waiting = _waiting.get()
    if waiting is None:
        yield
        return

    def cut() -> None:
        _shut(sock)

    waiting.cuts.add(cut)
    try:
        yield
    finally:
        waiting.cuts.discard(cut)


def _shut(sock: socket.socket) -> None:
    """As if the peer had closed; the object stays whole for the one who is reading from it."""
    with suppress(OSError), _Plain(fileno=os.dup(sock.fileno())) as twin:
        twin.shutdown(SHUT_RDWR)
