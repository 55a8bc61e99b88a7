"""Limits the number of concurrent requests."""

from __future__ import annotations

import threading
from collections.abc import Callable


class ConcurrencyLimit:
    """Counts concurrent requests and refuses those above ``limit``; ``None`` is unlimited."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.in_use = 0

    def acquire(self) -> Callable[[], None] | None:
        """Take a slot and return the function that frees it; ``None`` if all slots are taken.

        The function may be called several times; only the first call frees the slot.
        """
        with self._lock:
            if self._limit is not None and self.in_use >= self._limit:
                return None
            self.in_use += 1
        return ConcurrencySlot(self._release).release

    def _release(self) -> None:
        with self._lock:
            self.in_use -= 1


class ConcurrencySlot:
    """A slot in use."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._release_once = [free]

    def release(self) -> None:
        """Free the slot once: `list.pop` succeeds for one of several concurrent callers."""
        try:
            free = self._release_once.pop()
        except IndexError:
            return
        free()
