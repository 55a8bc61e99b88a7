"""Work that would block the loop, done beside it; and work that goes on when its request is over.

Under gevent blocking work goes to native threads, and the greenlet that wants it waits; under
threads it is simply done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

T = TypeVar("T")

native_sleep = monkey.get_original("time", "sleep")
"""Sleep in a native thread, which has no loop to let others have their turn."""

get_address_info = monkey.get_original("socket", "getaddrinfo")
"""``socket.getaddrinfo`` for a native thread."""


class BlockingPool:
    """Does blocking work, at most so many pieces of it at once.

    Who is interrupted while waiting for a piece leaves it to come to its end.
    """

    def __init__(self, most: int) -> None:
        self._pool = ThreadPool(most) if monkey.is_module_patched("threading") else None
        self._slots = threading.BoundedSemaphore(most)

    def run(self, work: Callable[[], T]) -> T:
        """What the work gives, or raises."""
        if self._pool is not None:
            outcome: TaskResult[T] = self._pool.apply(TaskResult, (work,))
            return outcome.unwrap()
        with self._slots:
            return work()


class TaskResult(Generic[T]):
    """What came of a piece of work.

    Its failure is for whoever waits: of one that leaves the pool by itself gevent writes a trace,
    with whatever the error quotes.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.error: BaseException | None = None
        try:
            self._value = work()
        except BaseException as error:
            self.error = error

    def unwrap(self) -> T:
        """What the work gives, or raises; to be asked once."""
        if self.error is None:
            return self._value
        try:
            raise self.error
        finally:
            self.error = None  # it holds this frame, and would wait with it for the collector


def spawn(work: Callable[[], object]) -> None:
    """Begin work that nobody waits for: in a greenlet, or in a thread that stops no process."""
    if monkey.is_module_patched("threading"):
        gevent.spawn(work)
    else:
        threading.Thread(target=work, daemon=True).start()
