"""Cleanup callbacks of a request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("forwarder.closers")


class CleanupStack:
    """Calls each added callback once, last in first out, even if several threads call `close`.

    `contextlib.ExitStack` does more than is needed and costs more per request.
    """

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def add(self, close: Callable[..., Any], *arguments: Any) -> None:
        """Call ``close(*arguments)`` during cleanup."""
        self._callbacks.append((close, arguments))

    def __len__(self) -> int:
        return len(self._callbacks)

    def close(self, keep_first: int = 0) -> None:
        """Call all callbacks except the first ``keep_first``; more can be added afterwards.

        A callback that raises is logged and does not prevent the others from running.
        """
        while len(self._callbacks) > keep_first:
            try:
                close, arguments = self._callbacks.pop()
            except IndexError:  # another thread took the last one
                return
            try:
                close(*arguments)
            except Exception as error:
                name = getattr(close, "__qualname__", repr(close))
                log.error(
                    "could not close %s: %s", name, error,
                    extra={"event": "cleanup_failed"}, exc_info=error,
                )  # fmt: skip
            except BaseException:  # the process or the greenlet ends
                self.close(keep_first)
                raise
