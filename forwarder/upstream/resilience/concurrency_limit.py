"""How many may be under way at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


class ConcurrencyLimit:
    """Counts what is under way; with a limit, refuses what is more."""

    def __init__(self, most: int | None) -> None:
        self._limit = most
        self._lock = threading.Lock()
        self.in_use = 0

    def acquire(self) -> Callable[[], None] | None:
        """A slot, as the function that frees it, once however often it is called; or ``None``."""
        with self._lock:
            if self._limit is not None and self.in_use >= self._limit:
                return None
            self.in_use += 1
        return ConcurrencySlot(self._release).release

    def _release(self) -> None:
        with self._lock:
            self.in_use -= 1


class ConcurrencySlot:
    """One slot that is taken."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._release_once = [free]

    def release(self) -> None:
        """``pop`` goes to one only, whoever else wants to free it at the same moment."""
        try:
            free = self._release_once.pop()
        except IndexError:
            return
        free()
