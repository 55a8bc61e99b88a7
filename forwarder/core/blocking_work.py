"""Runs blocking work outside of the event loop, and background work that outlives its request.

Under gevent, blocking work runs in native threads while the calling greenlet waits.  Under threads
it runs in the caller's thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

T = TypeVar("T")

native_sleep = monkey.get_original("time", "sleep")
"""Sleep in a native thread, which has no event loop."""

get_address_info = monkey.get_original("socket", "getaddrinfo")
"""``socket.getaddrinfo`` for a native thread."""

spawn_process: Callable[..., int] = monkey.get_original("os", "posix_spawn")
"""``os.posix_spawn``, which works in every thread."""

wait_process: Callable[[int, int], tuple[int, int]] = monkey.get_original("os", "waitpid")
"""``os.waitpid`` for processes of `spawn_process`; gevent's version waits only for its own ones."""


MAX_CLOSE_SECONDS = 2.0
"""How long `BlockingPool.close` waits for work that has begun."""


class BlockingPool:
    """Runs blocking work, at most ``max_tasks`` pieces at once.

    If a waiting caller is interrupted, its work still runs to its end. Threads start with the first
    work and end only when the pool is closed.
    """

    def __init__(self, max_tasks: int) -> None:
        self._pool = ThreadPool(max_tasks) if monkey.is_module_patched("threading") else None
        self._slots = threading.BoundedSemaphore(max_tasks)

    def run(self, work: Callable[[], T]) -> T:
        """Run ``work``; return its result or raise its exception."""
        if self._pool is not None:
            outcome: TaskResult[T] = self._pool.apply(TaskResult, (work,))
            return outcome.unwrap()
        with self._slots:
            return work()

    def close(self) -> None:
        """End the threads after the work that has begun. Later work runs in the caller's thread."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(TimeoutError), gevent.Timeout(MAX_CLOSE_SECONDS, TimeoutError):
                pool.kill()


class ClientSlots:
    """``size`` slots for work at the same time, of which one client gets at most a quarter."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._share = max(1, size // 4)
        self._used: Counter[str] = Counter()
        self._changed = threading.Condition()

    def acquire(self, client: str, seconds: float) -> bool:
        """Take a slot; return False if none gets free within ``seconds``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_slot(client), seconds):
                return False
            self._used[client] += 1
            return True

    def release(self, client: str) -> None:
        """Give a slot back."""
        with self._changed:
            self._used[client] -= 1
            self._used += Counter()  # removes clients without slots
            self._changed.notify_all()

    @contextmanager
    def hold(self, client: str, seconds: float, failure: Exception) -> Iterator[None]:
        """Hold a slot in the context. Raises ``failure`` if none gets free within ``seconds``."""
        if not self.acquire(client, seconds):
            raise failure
        try:
            yield
        finally:
            self.release(client)

    def _has_slot(self, client: str) -> bool:
        return self._used.total() < self._size and self._used[client] < self._share


class TaskResult(Generic[T]):
    """The result or the exception of a piece of work.

    Exceptions are stored for the waiting caller.  If one left the pool, gevent would print a
    traceback, including any request data that the error quotes.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.error: BaseException | None = None
        try:
            self._value = work()
        except BaseException as error:
            self.error = error

    def unwrap(self) -> T:
        """Return the result or raise the exception.  Call it only once."""
        if self.error is None:
            return self._value
        try:
            raise self.error
        finally:
            self.error = None  # it references this frame: a cycle for the garbage collector


class BackgroundRun(Protocol):
    """Work that runs in the background."""

    def join(self, timeout: float | None = None) -> object:
        """Wait for its end, at most ``timeout`` seconds."""


def spawn(work: Callable[[], object]) -> BackgroundRun:
    """Run ``work`` in the background: in a greenlet under gevent, else in a daemon thread."""
    if monkey.is_module_patched("threading"):
        greenlet: BackgroundRun = gevent.spawn(work)
        return greenlet
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
