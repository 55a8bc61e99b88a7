"""What has to be closed in the end, whatever happens until then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("forwarder.closers")


class CleanupStack:
    """Calls what was added, the last first and each once, whoever comes first to `close`.

    An ExitStack does more, of which a request would pay for everything.
    """

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def add(self, close: Callable[..., Any], *given: Any) -> None:
        """Call ``close(*given)`` in the end."""
        self._callbacks.append((close, given))

    def __len__(self) -> int:
        return len(self._callbacks)

    def close(self, keep_first: int = 0) -> None:
        """The end, for all but the first so many; there may be another one if more is added.

        What cannot be closed goes to the log, and keeps nothing else from being closed.
        """
        while len(self._callbacks) > keep_first:
            try:
                close, given = self._callbacks.pop()
            except IndexError:  # another thread was faster
                return
            try:
                close(*given)
            except Exception as error:
                log.error("something could not be closed", exc_info=error)
            except BaseException:  # the process ends, or the greenlet does
                self.close(keep_first)
                raise
