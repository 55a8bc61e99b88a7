"""How many may be under way at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Slots:
    """Counts what is under way; with a limit, refuses what is more."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> Callable[[], None] | None:
        """A slot, as the function that frees it, once however often it is called; or ``None``."""
        with self._lock:
            if self._most is not None and self.taken >= self._most:
                return None
            self.taken += 1
        return _Slot(self._free).free

    def _free(self) -> None:
        with self._lock:
            self.taken -= 1


class _Slot:
    """One slot that is taken."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._held = [free]

    def free(self) -> None:
        """``pop`` goes to one only, whoever else wants to free it at the same moment."""
        try:
            free = self._held.pop()
        except IndexError:
            return
        free()
