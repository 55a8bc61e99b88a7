"""Looks up the names of hosts that clients name, beside the look-ups of upstreams.

Whoever runs a name server decides how long a look-up takes, and it cannot be broken off.  Under
gevent all look-ups share ten threads: ten slow ones would keep every upstream waiting.  These have
threads of their own, of which one client gets a part.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from forwarder.core.concurrency import BlockingPool, TaskResult, spawn

T = TypeVar("T")


class LookupPool:
    """Does at most ``size`` look-ups at once, and a quarter of that for one client."""

    def __init__(self, size: int) -> None:
        self._aside = BlockingPool(size)
        self._size = size
        self._share = max(1, size // 4)
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()

    def look_up(self, client: str, seconds: float, look_up: Callable[[], T]) -> T:
        """What ``look_up`` gives or raises; TimeoutError if that takes longer.

        A look-up that is waited for no more keeps its place until it ends.
        """
        deadline = time.monotonic() + seconds
        if not self._wait_for_slot(client, seconds):
            raise TimeoutError
        outcomes: list[TaskResult[T]] = []
        ended = threading.Event()

        def run() -> None:
            try:
                outcomes.append(TaskResult(lambda: self._aside.run(look_up)))
            finally:
                self._release_slot(client)
                ended.set()

        spawn(run)
        if not ended.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        return outcomes[0].unwrap()

    def _wait_for_slot(self, client: str, seconds: float) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_slot(client), seconds):
                return False
            self._running[client] += 1
            return True

    def _has_slot(self, client: str) -> bool:
        return self._running.total() < self._size and self._running[client] < self._share

    def _release_slot(self, client: str) -> None:
        with self._changed:
            self._running[client] -= 1
            self._running += Counter()  # forgets clients without look-ups
            self._changed.notify_all()
