"""Resolves host names from clients' requests separately from the host names of upstreams.

A client can choose a host with a slow name server, and a look-up cannot be cancelled. Under
gevent all look-ups share ten threads, so ten slow ones would block every upstream. The look-ups
here have their own threads, and each client gets only a share of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from forwarder.core.blocking_work import BlockingPool, ClientSlots, TaskResult, spawn

T = TypeVar("T")


class LookupPool:
    """Runs at most ``size`` look-ups at once, and at most a quarter of them for one client."""

    def __init__(self, size: int) -> None:
        self._threads = BlockingPool(size)
        self._slots = ClientSlots(size)

    def look_up(self, client: str, seconds: float, look_up: Callable[[], T]) -> T:
        """Return or raise the result of ``look_up``; raise TimeoutError after ``seconds``.

        After a time-out the look-up keeps its slot until it ends.
        """
        deadline = time.monotonic() + seconds
        if not self._slots.acquire(client, seconds):
            raise TimeoutError
        outcomes: list[TaskResult[T]] = []
        ended = threading.Event()

        def run() -> None:
            try:
                outcomes.append(TaskResult(lambda: self._threads.run(look_up)))
            finally:
                self._slots.release(client)
                ended.set()

        spawn(run)
        if not ended.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        return outcomes[0].unwrap()
