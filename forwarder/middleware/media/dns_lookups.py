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

from forwarder.core.concurrency import Aside, Outcome, spawn

T = TypeVar("T")


class LookupPool:
    """Does at most ``size`` look-ups at once, and a quarter of that for one client."""

    def __init__(self, size: int) -> None:
        self._aside = Aside(size)
        self._size = size
        self._share = max(1, size // 4)
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()

    def run(self, client: str, seconds: float, look_up: Callable[[], T]) -> T:
        """What ``look_up`` gives or raises; TimeoutError if that takes longer.

        A look-up that is waited for no more keeps its place until it ends.
        """
        deadline = time.monotonic() + seconds
        if not self._enter(client, seconds):
            raise TimeoutError
        outcomes: list[Outcome[T]] = []
        ended = threading.Event()

        def run() -> None:
            try:
                outcomes.append(Outcome(lambda: self._aside.do(look_up)))
            finally:
                self._leave(client)
                ended.set()

        spawn(run)
        if not ended.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        return outcomes[0].given()

    def _enter(self, client: str, seconds: float) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_place(client), seconds):
                return False
            self._running[client] += 1
            return True

    def _has_place(self, client: str) -> bool:
        return self._running.total() < self._size and self._running[client] < self._share

    def _leave(self, client: str) -> None:
        with self._changed:
            self._running[client] -= 1
            self._running += Counter()  # forgets clients without look-ups
            self._changed.notify_all()
